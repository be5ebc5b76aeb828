"""A driver whose data plane is a few dictionaries, for simulations and for tests of the agent and what is above it.

The `Tables` outlive the driver, as a kernel outlives an agent. They can be told to refuse a port, or everything.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from alcor.dataplane.base import (
    Applied,
    DataPlaneError,
    LocalPort,
    Miss,
    Observed,
    Plan,
    Policy,
    PolicyKey,
    PortCounters,
    PortResult,
    Request,
    Route,
    RouteKey,
    Service,
    ServiceCounters,
    ServiceKey,
    SharedAddress,
    TranslationKey,
)
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake.driver import FakeProber
from alcor.kit.bell import Bell
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id


class Tables:
    """What a kernel would hold, and how often each port was written."""

    def __init__(self) -> None:
        self.ports: dict[Id, LocalPort] = {}
        self.endpoints: dict[EndpointKey, Endpoint] = {}
        self.gateways: set[EndpointKey] = set()
        self.policies: dict[PolicyKey, Policy] = {}
        self.vips: dict[EndpointKey, Mac] = {}
        self.services: dict[ServiceKey, Service] = {}
        self.on_demand: set[int] = set()
        self.learnt: dict[EndpointKey, Endpoint | None] = {}
        """Of VPCs on demand; None: nobody has the address."""
        self.forwards: dict[EndpointKey, Endpoint] = {}
        self.routes: dict[RouteKey, Route] = {}
        self.translations: dict[TranslationKey, int] = {}
        self.shared: dict[Ip, SharedAddress] = {}
        self.host_ip: Ip | None = None
        """Its tunnel end, by which an answerer is named."""
        self.external = False
        """It has an external device."""
        self.orphans: tuple[str, ...] = ()
        self.refused_ports: dict[Id, str] = {}
        self.refused_interfaces: dict[str, str] = {}
        self.tables_error = ""
        self.broken = ""
        self.written: Counter[Id] = Counter()
        self.changed = threading.Event()


class DictionaryMisses:
    """Fills dataplane.base.Misses. `miss` is what a packet would do."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.released: list[Miss] = []
        self._held: list[Miss] = []
        self._bell = Bell()

    def miss(self, miss: Miss) -> None:
        """A packet for an address of which nothing is known."""
        self._held.append(miss)
        self._bell.ring()

    def fileno(self) -> int:
        return self._bell.fileno()

    def take(self) -> list[Miss]:
        self._bell.hush()
        taken, self._held = self._held, []
        return taken

    def learn(self, found: Sequence[tuple[EndpointKey, Endpoint]], absent: Sequence[EndpointKey]) -> None:
        self.tables.learnt.update((key, end) for key, end in found if key.vni in self.tables.on_demand)
        self.tables.learnt.update((key, None) for key in absent if key.vni in self.tables.on_demand)
        self.tables.changed.set()

    def forget(self, keys: Sequence[EndpointKey]) -> None:
        for key in keys:
            self.tables.learnt.pop(key, None)

    def used(self, keys: Sequence[EndpointKey]) -> frozenset[EndpointKey]:
        return frozenset()

    def release(self, misses: Sequence[Miss]) -> None:
        self.released += misses

    def close(self) -> None:
        """Gives the descriptor back."""
        self._bell.close()


class DictionaryRequests:
    """Fills dataplane.base.Requests: no port asks anything."""

    def __init__(self) -> None:
        self._bell = Bell()

    def fileno(self) -> int:
        return self._bell.fileno()

    def take(self) -> list[Request]:
        return []

    def interfaces(self) -> dict[Id, int]:
        return {}

    def answer(self, ifindex: int, frame: bytes) -> None:
        pass

    def refuse(self, request: Request) -> None:
        pass

    def close(self) -> None:
        """Gives the descriptor back."""
        self._bell.close()


class DictionaryDriver:
    """See the module."""

    name = "dictionary"

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.misses = DictionaryMisses(tables)
        self.prober = FakeProber()
        self.requests = DictionaryRequests()
        self.plans: list[Plan] = []

    def observe(self) -> Observed:
        if self.tables.broken:
            raise DataPlaneError(self.tables.broken)
        return Observed(
            ports=dict(self.tables.ports),
            endpoints=dict(self.tables.endpoints),
            gateways=frozenset(self.tables.gateways),
            vips=dict(self.tables.vips),
            services={key: service.digest() for key, service in self.tables.services.items()},
            policies={key: policy.digest() for key, policy in self.tables.policies.items()},
            on_demand=frozenset(self.tables.on_demand),
            routes=dict(self.tables.routes),
            translations=dict(self.tables.translations),
            shared={ip: one.digest() for ip, one in self.tables.shared.items()},
            answers=frozenset(ip for ip, one in self.tables.shared.items() if one.answerer == self.tables.host_ip),
            learnt=tuple(sorted(self.tables.learnt)),
            forwards=dict(self.tables.forwards),
            orphans=self.tables.orphans,
        )

    def apply(self, plan: Plan) -> Applied:
        tables = self.tables
        if tables.broken:
            raise DataPlaneError(tables.broken)
        self.plans.append(plan)
        tables.forwards.update(plan.put_forwards)
        tables.on_demand.update(plan.put_on_demand)
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
            for key in plan.remove_vips:
                tables.vips.pop(key, None)
            for gone in plan.remove_services:
                tables.services.pop(gone, None)
            tables.services.update((service.key, service) for service in plan.put_services)
            tables.vips.update(plan.put_vips)
            tables.policies.update((policy.key, policy) for policy in plan.put_policies)
            tables.endpoints.update(plan.endpoints())
            tables.translations.update(plan.put_translations)
            tables.shared.update(plan.put_shared)
            tables.routes.update(plan.put_routes)
        for port in plan.put_ports:
            error = tables.refused_ports.get(port.id, "") or tables.refused_interfaces.get(port.interface, "")
            if not error:
                tables.ports[port.id] = port
                tables.written[port.id] += 1
            results.append(PortResult(port.id, error, 2))
        if not tables.tables_error:
            for route in plan.remove_routes:
                tables.routes.pop(route, None)
            for ip in plan.remove_shared:
                tables.shared.pop(ip, None)
            for translation in plan.remove_translations:
                tables.translations.pop(translation, None)
            for named in plan.remove_policies:
                tables.policies.pop(named, None)
            for key in plan.remove_forwards:
                tables.forwards.pop(key, None)
            tables.on_demand.difference_update(plan.remove_on_demand)
            for key in [key for key in tables.learnt if key.vni in plan.remove_on_demand]:
                del tables.learnt[key]
        tables.changed.set()
        return Applied(ports=tuple(results), error=tables.tables_error, wiring_us=1, tables_us=1)

    @property
    def external(self) -> bool:
        """See dataplane.base."""
        return self.tables.external

    def interface_of(self, port_id: Id) -> int | None:
        return 1 if port_id in self.tables.ports else None

    def sweep(self, orphans: tuple[str, ...]) -> None:
        self.tables.orphans = tuple(name for name in self.tables.orphans if name not in orphans)

    def counters(self) -> dict[Id, PortCounters]:
        return {identifier: PortCounters(0, 0, 0, 0, {}) for identifier in self.tables.ports}

    def service_counters(self) -> dict[ServiceKey, ServiceCounters]:
        return {key: ServiceCounters() for key in self.tables.services}

    def close(self) -> None:
        self.misses.close()
        self.requests.close()
