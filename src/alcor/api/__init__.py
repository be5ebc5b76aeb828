"""api: REST face (OpenStack Networking v2.0)."""
