"""A driver whose data plane is a few dictionaries, for simulations and for tests of the agent and what is above it.

The `Tables` outlive the driver, as a kernel outlives an agent. They can be told to refuse a port, or everything.
"""

from __future__ import annotations

import threading
from collections import Counter

from alcor.dataplane.base import (
    Applied,
    DataPlaneError,
    Endpoint,
    EndpointKey,
    LocalPort,
    Observed,
    Plan,
    Policy,
    PolicyKey,
    PortCounters,
    PortResult,
)
from alcor.model.ids import Id


class Tables:
    """What a kernel would hold, and how often each port was written."""

    def __init__(self) -> None:
        self.ports: dict[Id, LocalPort] = {}
        self.endpoints: dict[EndpointKey, Endpoint] = {}
        self.gateways: set[EndpointKey] = set()
        self.policies: dict[PolicyKey, Policy] = {}
        self.orphans: tuple[str, ...] = ()
        self.refused_ports: dict[Id, str] = {}
        self.refused_interfaces: dict[str, str] = {}
        self.tables_error = ""
        self.broken = ""
        self.written: Counter[Id] = Counter()
        self.changed = threading.Event()


class DictionaryDriver:
    """See the module."""

    name = "dictionary"

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.plans: list[Plan] = []

    def observe(self) -> Observed:
        if self.tables.broken:
            raise DataPlaneError(self.tables.broken)
        return Observed(
            ports=dict(self.tables.ports),
            endpoints=dict(self.tables.endpoints),
            gateways=frozenset(self.tables.gateways),
            policies={key: policy.digest() for key, policy in self.tables.policies.items()},
            orphans=self.tables.orphans,
        )

    def apply(self, plan: Plan) -> Applied:
        tables = self.tables
        if tables.broken:
            raise DataPlaneError(tables.broken)
        self.plans.append(plan)
        results = []
        for identifier in plan.remove_ports:
            tables.ports.pop(identifier, None)
            tables.written[identifier] += 1
            results.append(PortResult(identifier, "", 1))
        if not tables.tables_error:
            for key in plan.remove_endpoints:
                tables.endpoints.pop(key, None)
            tables.gateways.difference_update(plan.remove_gateways)
            tables.gateways.update(plan.put_gateways)
            tables.policies.update((policy.key, policy) for policy in plan.put_policies)
            tables.endpoints.update(plan.put_endpoints)
        for port in plan.put_ports:
            error = tables.refused_ports.get(port.id, "") or tables.refused_interfaces.get(port.interface, "")
            if not error:
                tables.ports[port.id] = port
                tables.written[port.id] += 1
            results.append(PortResult(port.id, error, 2))
        if not tables.tables_error:
            for named in plan.remove_policies:
                tables.policies.pop(named, None)
        tables.changed.set()
        return Applied(ports=tuple(results), error=tables.tables_error, wiring_us=1, tables_us=1)

    def sweep(self, orphans: tuple[str, ...]) -> None:
        self.tables.orphans = tuple(name for name in self.tables.orphans if name not in orphans)

    def counters(self) -> dict[Id, PortCounters]:
        return {identifier: PortCounters(0, 0, 0, 0, {}) for identifier in self.tables.ports}

    def close(self) -> None:
        pass
