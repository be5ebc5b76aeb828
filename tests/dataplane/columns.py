"""Endpoints as columns, for tests that have them as rows."""

from collections.abc import Sequence

from alcor.dataplane.endpoints import Endpoint, EndpointColumns, EndpointKey


def as_columns(rows: Sequence[tuple[EndpointKey, Endpoint]]) -> EndpointColumns:
    """Of one VPC, in the same order."""
    ((vni, *others), ends) = sorted({key.vni for key, _ in rows}), [end for _, end in rows]
    assert not others
    return EndpointColumns(
        vni,
        tuple([key.ip for key, _ in rows]),
        tuple([end.mac for end in ends]),
        tuple([end.host_ip for end in ends]),
        tuple([end.identity for end in ends]),
    )
