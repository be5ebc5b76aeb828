"""Why packets are dropped: what data planes count by, and docs/pipeline.md explains. alcor.h has the numbers in C."""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """Why a packet was dropped; numbers and meanings as in docs/pipeline.md."""

    NO_PORT = 1
    PORT_DOWN = 2
    MALFORMED = 3
    SPOOFED_MAC = 4
    SPOOFED_IP = 5
    NOT_SUPPORTED = 6
    ARP_IGNORED = 7
    ARP_UNKNOWN = 8
    MULTICAST = 9
    NO_ENDPOINT = 10
    NOT_ROUTED = 11
    GATEWAY = 12
    TTL_EXCEEDED = 13
    NO_UNDERLAY = 14
    ENCAP_FAILED = 15
    """A kernel refuses for many reasons; the model only when the outer packet would not fit IPv4's 16-bit length."""

    ND_IGNORED = 16
    ND_UNKNOWN = 17
    POLICY_EGRESS = 18
    POLICY_INGRESS = 19
    INVALID_STATE = 20
    FRAGMENT = 21
    FLOWS_FULL = 22
    """A kernel without memory; the model never."""
    MISS_LIMIT = 23
    """A port that sends too many packets to unknown addresses; the model has no clock for that."""
    UNRESOLVED = 24
    TOO_BIG = 25
    NO_ROUTE = 26
    BLACKHOLE = 27
    NO_EXTERNAL = 32
    NO_TRANSLATION = 33
    NO_LISTENER = 38
    NO_BACKEND = 39
    DHCP_SERVER = 44
    NO_SERVICE = 45
    UNSERVED = 46
    SERVICE_LIMIT = 47
    """A port that asks too much; the model has no clock for that."""
    RATE_LIMIT = 48
    EIP_RATE_LIMIT = 49
    """By a queue that is full, not by a step."""
    SNAT_FULL = 50
    NO_BLOCK = 51
    UNSOLICITED = 52

    @property
    def word(self) -> str:
        """The reason as counters and docs spell it."""
        return self.name.lower()
