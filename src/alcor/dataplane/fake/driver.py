"""The driver `fake`: carries plans out on a software switch. Made by roles (or a test), called by the agent.

It fills `dataplane.base.Driver`, so everything above it runs unchanged on a machine without root or BPF. What it knows
of its own after amnesia: all of it, for the switch, which plays the kernel, keeps the tables (docs/rooms/dataplane.md).

Beyond the protocol it lets a workload act (`inject`, `ping`, `received`), which the lab's proofs and the tests need.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from alcor.dataplane.base import (
    Applied,
    DataPlaneError,
    LocalPort,
    Misses,
    Observed,
    Plan,
    PortCounters,
    PortResult,
    Probe,
    Requests,
    ServiceCounters,
    ServiceKey,
)
from alcor.dataplane.fake.switch import Pings, Switch
from alcor.dataplane.fake.tables import RemoteRow
from alcor.dataplane.fake.walk import Verdict
from alcor.model.addresses import Ip
from alcor.model.ids import Id


class FakeProber:
    """Fills dataplane.base.Prober: workloads of software answer for everything, but for what they are told not to."""

    def __init__(self) -> None:
        self.failing: set[tuple[Ip, int]] = set()
        """Addresses and ports that do not answer."""

    def start(self, probe: Probe, done: Callable[[str], None]) -> None:
        """See dataplane.base."""
        done("it is told not to answer" if (probe.ip, probe.port) in self.failing else "")


class FakeDriver:
    """A data plane in software. The protocol's methods belong to the agent's worker thread; the rest to any thread."""

    name = "fake"

    def __init__(self, switch: Switch) -> None:
        """The switch stays its maker's, who closes it: it forwards whether there is a driver or not."""
        self._switch = switch
        self.misses: Misses = switch
        """See dataplane.base."""
        self.requests: Requests = switch.requests
        """See dataplane.base."""
        self.prober = FakeProber()

    @property
    def external(self) -> bool:
        """See dataplane.base."""
        return self._switch.external

    def interface_of(self, port_id: Id) -> int | None:
        """See dataplane.base."""
        with self._switch.changing() as carried:
            return carried.ifindex_of(port_id)

    def observe(self) -> Observed:
        """Reads the switch's tables."""
        with self._switch.changing() as carried:
            return Observed(
                ports=carried.ports(),
                endpoints=carried.endpoints(),
                on_demand=frozenset(carried.tables.on_demand),
                learnt=carried.learnt(),
                forwards=carried.forwards(),
                gateways=carried.gateways(),
                vips=carried.vips(),
                services=carried.services(),
                policies=carried.policies(),
                routes=dict(carried.tables.routes),
                shared={ip: one.digest() for ip, one in carried.tables.sharing.shared.items()},
                answers=carried.answers(),
                translations=dict(carried.tables.translations),
                orphans=tuple(carried.orphans()),
            )

    def apply(self, plan: Plan) -> Applied:
        """Carries the plan out in its order. A port's failure is its own; only a state that cannot be saved raises."""
        started = time.monotonic_ns()
        with self._switch.changing() as carried:
            for key, end in plan.put_forwards:
                carried.tables.forwards[key] = RemoteRow(end.host_ip, end.mac, end.identity)
            carried.tables.on_demand.update(plan.put_on_demand)
        results = [self._attempt(port_id, None, started) for port_id in plan.remove_ports]
        wired = time.monotonic_ns()
        with self._switch.changing() as carried:
            for key in plan.remove_endpoints:
                carried.tables.remote.pop(key, None)
            for key in plan.remove_gateways:
                carried.remove_gateway(key)
            for key in plan.remove_vips:
                carried.remove_vip(key)
            for named in plan.remove_services:
                carried.tables.balance.remove(named)
            for service in plan.put_services:
                carried.tables.balance.put(service, time.monotonic_ns())
            for key, mac in plan.put_vips:
                carried.put_vip(key, mac)
            carried.put_policies(plan.put_policies)
            for key in plan.put_gateways:
                carried.put_gateway(key)
            for key, endpoint in plan.endpoints():
                carried.tables.remote[key] = RemoteRow(endpoint.host_ip, endpoint.mac, endpoint.identity)
            carried.tables.translations.update(plan.put_translations)
            carried.tables.sharing.shared.update(plan.put_shared)
        self._switch.put_routes(plan.put_routes)
        tabled = time.monotonic_ns()
        with self._switch.changing() as carried:
            taken = carried.taken(plan.put_ports)
        for port in plan.put_ports:
            error = taken.get(port.id, "")
            result = PortResult(port.id, error, (time.monotonic_ns() - started) // 1000)
            results.append(result if error else self._attempt(port.id, port, started))
        with self._switch.changing() as carried:
            for route in plan.remove_routes:
                carried.tables.routes.pop(route, None)
            for ip in plan.remove_shared:
                carried.tables.sharing.shared.pop(ip, None)
            for translation in plan.remove_translations:
                carried.tables.translations.pop(translation, None)
            carried.remove_policies(plan.remove_policies)
            carried.end_on_demand(plan.remove_on_demand)
            for key in plan.remove_forwards:
                carried.tables.forwards.pop(key, None)
        if not plan.empty:
            self._switch.save()
        tables_us = (tabled - wired) // 1000
        wiring_us = (time.monotonic_ns() - started) // 1000 - tables_us
        return Applied(ports=tuple(results), error="", wiring_us=wiring_us, tables_us=tables_us)

    def _attempt(self, port_id: Id, port: LocalPort | None, started: int) -> PortResult:
        error = ""
        try:
            if port is None:
                self._switch.remove_port(port_id)
            else:
                self._switch.put_port(port)
        except DataPlaneError as refused:
            error = str(refused)
        return PortResult(port_id, error, (time.monotonic_ns() - started) // 1000)

    def sweep(self, orphans: tuple[str, ...]) -> None:
        """Removes half-made devices by name; whole ports and what is foreign stay."""
        for name in orphans:
            self._switch.remove_orphan(name)
        self._switch.save()

    def counters(self) -> dict[Id, PortCounters]:
        """Traffic per local port."""
        with self._switch.changing() as carried:
            return carried.counters()

    def service_counters(self) -> dict[ServiceKey, ServiceCounters]:
        """Traffic of this host's clients per service."""
        with self._switch.changing() as carried:
            return carried.tables.balance.counters()

    def close(self) -> None:
        """Saves the counters; the switch forwards on."""
        self._switch.save()

    def inject(self, port_id: Id, frame: bytes) -> Verdict:
        """The port's workload sends the frame as it is; returns what became of it and why. Raises DataPlaneError."""
        return self._switch.inject(port_id, frame)

    def ping(self, port_id: Id, destination: Ip, count: int = 1, timeout_s: float = 1.0) -> Pings:
        """The port's workload pings; every request is awaited for `timeout_s`. Blocks. Raises DataPlaneError."""
        return self._switch.ping(port_id, destination, count, timeout_s)

    def received(self, port_id: Id, timeout_s: float = 0.0) -> tuple[bytes, ...]:
        """Takes the frames that the port's workload was given since the last call; waits for the first. Raises
        DataPlaneError."""
        return self._switch.received(port_id, timeout_s)
