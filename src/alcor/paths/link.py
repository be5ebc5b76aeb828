"""What both ends of the fast path agree on: gRPC options, certificates, and who a peer is.

Called by fast (the controller's end) and agent.server (the host's end); with those two it is where gRPC enters.
Certificates are as kit.pki issues them: the DNS name is the machine's, the URI a SPIFFE id with the role.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import grpc
import msgspec

from alcor.wire.codec import MAX_MESSAGE_BYTES

CONTROLLER, AGENT = "controller", "agent"
PARTITION_HEADER = "alcor-partition"
EPOCH_HEADER = "alcor-epoch"
TARGET_HEADER = "alcor-target"
"""Of a Relay: where the bytes go, host:port (IPv6 in brackets)."""

KEEPALIVE_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 20_000
"""How long a silent peer may take to answer a ping before the connection is given up."""
MAX_PENDING_REQUESTS = 65_536
"""gRPC refuses bursts of new streams by default; measured: thousands of 10,000 were lost."""

Options: TypeAlias = Sequence[tuple[str, int | str]]

_COMMON: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER_OPTIONS: Options = [
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
    ("grpc.so_reuseport", 0),
]


def client_options(server_name: str) -> Options:
    """Of a channel to the agent whose certificate must be for `server_name`, wherever it is dialled."""
    return [
        *_COMMON,
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]


class Credentials(msgspec.Struct, frozen=True):
    """PEM files' contents: whom to trust, who we are, and the proof."""

    ca: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Credentials(...)"  # the key must never reach a log

    def for_client(self) -> grpc.ChannelCredentials:
        """To dial with, proving who we are."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    def for_server(self) -> grpc.ServerCredentials:
        """To listen with, letting in only whom the CA vouches for."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)], self.ca, require_client_auth=True)


class CredentialsError(Exception):
    """Certificates cannot be read: which file, why, and how to make them."""


def load_credentials(directory: Path, role: str) -> Credentials:
    """Reads `ca.pem`, `<role>.pem` and `<role>-key.pem`. Raises CredentialsError."""
    try:
        return Credentials(
            (directory / "ca.pem").read_bytes(),
            (directory / f"{role}.pem").read_bytes(),
            (directory / f"{role}-key.pem").read_bytes(),
        )
    except OSError as error:
        raise CredentialsError(
            f"cannot read {error.filename}: {error.strerror}. `alcor pki` makes certificates for the role {role}"
        ) from None


def roles_of(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The roles that a verified peer's certificate gives it (SPIFFE ids `spiffe://<domain>/<role>/<name>`)."""
    roles = set()
    for name in auth_context.get("x509_subject_alternative_name", ()):
        scheme, _, rest = name.partition(b"://")
        steps = rest.split(b"/")
        if scheme == b"spiffe" and len(steps) == 3:
            roles.add(steps[1].decode("ascii", "replace"))
    return frozenset(roles)
