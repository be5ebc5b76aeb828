"""TLS of the bus's clients, from the same certificates as everything else (kit.pki). Called by roles and tests."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(directory: Path, role: str) -> ssl.SSLContext:
    """Trusts `ca.pem`, shows `<role>.pem` (PEM files in `directory`). Raises OSError, ssl.SSLError.

    Servers are checked against the CA and the name or address they are dialled at.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(directory / f"{role}.pem", directory / f"{role}-key.pem")
    return context
