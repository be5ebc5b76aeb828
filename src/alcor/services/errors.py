"""The one tree of domain errors. Raised by services, mapped to HTTP once (api), shown to the caller as Neutron does.

Each class's name is the `type` of Neutron's error body; `status` is Neutron's code for it.
"""

from __future__ import annotations


class DomainError(Exception):
    """Something the caller can mend. `message` names the field and the value."""

    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(DomainError):
    """A value that cannot be."""


class NotFound(DomainError):
    """An id that nobody has (or nobody the caller may see)."""

    status = 404


class NetworkNotFound(NotFound): ...


class SubnetNotFound(NotFound): ...


class PortNotFound(NotFound): ...


class NodeNotFound(NotFound): ...


class Conflict(DomainError):
    """True of the value, but not of the present state."""

    status = 409


class NetworkInUse(Conflict): ...


class SubnetInUse(Conflict): ...


class NodeInUse(Conflict): ...


class NodeNameInUse(Conflict): ...


class IpAddressAlreadyAllocated(Conflict): ...


class IpAddressGenerationFailure(Conflict): ...


class MacAddressInUse(Conflict): ...


class VniInUse(Conflict): ...


class NoVniAvailable(Conflict): ...


class InvalidIpForSubnet(DomainError): ...


class InvalidIpForNetwork(DomainError): ...


class RevisionNumberConstraintFailed(DomainError):
    """`If-Match` named another revision."""

    status = 412
