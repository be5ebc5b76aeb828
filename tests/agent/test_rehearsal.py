"""Before the first real port: what is rehearsed leaves nothing, and a host that cannot carry ports says so."""

from pathlib import Path

import msgspec

from alcor.agent.config import AgentConfig
from alcor.agent.rehearsal import PORTS, rehearse
from alcor.dataplane.base import Applied, Plan, PortResult
from alcor.kit.clock import FakeClock
from alcor.sim.tables import DictionaryDriver, Tables


def config(directory: Path) -> AgentConfig:
    return AgentConfig(host="a", state_dir=directory, listen="", tls_dir=directory)


class Watched(DictionaryDriver):
    """Remembers what was put, and refuses ports when told."""

    def __init__(self, tables: Tables, refusal: str = "") -> None:
        super().__init__(tables)
        self.plans: list[Plan] = []
        self.refusal = refusal

    def apply(self, plan: Plan) -> Applied:
        self.plans.append(plan)
        done = super().apply(plan)
        if not self.refusal or not plan.put_ports:
            return done
        return msgspec.structs.replace(
            done, ports=tuple([PortResult(port.id, self.refusal, 1) for port in plan.put_ports])
        )


def test_ports_come_and_go(tmp_path: Path) -> None:
    """Ports, endpoint, gateway and rules are put; nothing of them stays, nor in the state directory."""
    driver = Watched(Tables())
    before = driver.observe()
    assert rehearse(config(tmp_path), driver, FakeClock().monotonic, lambda: 0.5) == ""
    assert len({port.id for plan in driver.plans for port in plan.put_ports}) == PORTS
    assert all(any(getattr(plan, name) for plan in driver.plans) for name in ("put_columns", "put_gateways"))
    assert driver.observe() == before
    assert list(tmp_path.iterdir()) == []


def test_what_a_host_cannot_do_is_told(tmp_path: Path) -> None:
    """The reason of the first port that could not be made."""
    driver = Watched(Tables(), "making namespaces failed")
    assert rehearse(config(tmp_path), driver, FakeClock().monotonic, lambda: 0.5) == "making namespaces failed"
