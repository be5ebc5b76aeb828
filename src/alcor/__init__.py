"""Alcor: a cloud-native SDN platform. ARCHITECTURE.md is the map."""

__version__ = "0.1.0"
