"""`alcor lab --faults`: two VPCs with the same addresses on a small lab, then a campaign of faults. Called by run."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from alcor.lab import fakeproofs, faults, proofs, scenario, tally, upgrades
from alcor.lab.audit import Auditor, Reader
from alcor.lab.campaign import ASK_S, Campaign
from alcor.lab.churn import Churn, Place
from alcor.lab.client import Client, Resource
from alcor.lab.ground import Ground
from alcor.lab.ledger import Ledger
from alcor.lab.live import LiveLab
from alcor.lab.proofs import World
from alcor.lab.pulse import Pulse
from alcor.lab.results import LabError, Proof, Provisioned, Stopped
from alcor.lab.scenario import Vpc
from alcor.lab.stages import Stages
from alcor.lab.strangers import Strangers
from alcor.lab.workloads import Workload, workloads

SHARE = 0.6
"""Part of the ports that the first VPC gets; so it has addresses that its twin has not."""
TIGHT_CIDR, TIGHT_SIZE, TIGHT_ROOM = "10.9.0.0/28", 13, 6
"""A subnet in which leaked addresses would soon be missed: 16 less network, broadcast and gateway."""
ROOM = 1000
MOST_FAILURES = 3
"""Faults in a row that were not recovered from: the lab is beyond help, and more would prove nothing."""


class UnderFault:
    """The scenario on a lab that is up, and what it found."""

    def __init__(self, lab: LiveLab, stages: Stages) -> None:
        self._lab = lab
        self._stages = stages
        self._ledger = Ledger()
        self._dice = random.Random(lab.options.seed)
        self.proofs: list[Proof] = []

    def play(self) -> tuple[Provisioned, tally.Campaign]:
        """Everything. What fails on the way is in the result, not an exception."""
        lab, options = self._lab, self._lab.options
        with self._stages.stage("nodes, two VPCs, subnets"):
            scenario.register_nodes(lab.client, lab.hosts)
            vpcs = [scenario.make_vpc(lab.client, name, lab.topology) for name in ("vpc", "twin")]
            tight = _tight_subnet(lab.client, vpcs[0])
        first = max(1, int(options.ports * SHARE))
        with self._stages.stage("ports of both, until all are ACTIVE", options.ports) as advance:
            mine, one = self._provision(vpcs[0], first, "vpc", advance)
            twin, two = self._provision(vpcs[1], max(1, options.ports - first), "twin", advance)
        provisioned = Provisioned(
            ports=one.ports + two.ports,
            active=one.active + two.active,
            created_ms=one.created_ms + two.created_ms,
            active_ms=one.active_ms + two.active_ms,
            errors=one.errors + two.errors,
        )
        if provisioned.active != provisioned.ports:
            raise LabError(f"the lab is not whole before the first fault: {'; '.join(provisioned.errors)}")
        world = World(vpc=tuple(mine), twin=tuple(twin), mtu=min(1500, lab.topology.mtu - 50))
        found = self._campaign(world, vpcs, tight)
        if found.passed:
            with self._stages.stage("proofs at the end"):
                self._prove(world)
            if options.upgrade_objects:
                with self._stages.stage(f"an agent upgraded with {options.upgrade_objects:,} objects"):
                    found = self._upgraded(found, vpcs[0], mine)
        return provisioned, found

    def _upgraded(self, found: tally.Campaign, vpc: Vpc, ports: Sequence[Workload]) -> tally.Campaign:
        ground = Ground(self._lab, self._dice)
        try:
            upgrade = upgrades.measure(ground, vpc, ports, self._lab.options.upgrade_objects, self._lab.check)
        except Stopped:
            raise
        except LabError as error:
            return msgspec.structs.replace(found, problems=(*found.problems, str(error)))
        lost = [f"{upgrade.pings_lost} pings lost while an agent was upgraded"] if upgrade.pings_lost else []
        return msgspec.structs.replace(found, upgrade=upgrade, problems=(*found.problems, *lost))

    def _provision(
        self, vpc: Vpc, count: int, name: str, advance: scenario.Progress
    ) -> tuple[list[Workload], Provisioned]:
        lab = self._lab
        bodies = scenario.port_bodies(vpc, lab.hosts, count, name=name)
        rows, provisioned = scenario.provision(lab.client, bodies, progress=advance, check=lab.check)
        self._ledger.created(rows)
        return workloads(rows, lab.hosts, vpc.gateways), provisioned

    def _campaign(self, world: World, vpcs: Sequence[Vpc], tight: Resource) -> tally.Campaign:
        lab, options = self._lab, self._lab.options
        names = [host.name for host in lab.hosts]
        places = [
            Place(network=vpcs[0].id, subnet=vpcs[0].subnets[0], room=ROOM),
            Place(network=vpcs[1].id, subnet=vpcs[1].subnets[0], room=ROOM),
            Place(network=vpcs[0].id, subnet=tight["id"], room=TIGHT_ROOM),
        ]
        planned = faults.plan(options.seed, options.faults, faults.kinds_for(lab.driver, options.fault_kinds), names)
        strikes: list[tally.Strike] = []
        problems: list[str] = []
        started = time.monotonic()
        with ExitStack() as stack:
            ground = Ground(lab, self._dice)
            reader = stack.enter_context(Reader(lab.driver))
            asker = Client(lab.api_port, ASK_S)
            stack.callback(asker.close)
            auditor = Auditor(
                asker, self._ledger, lab.hosts, reader, ground.database, (vpcs[0].id, tight["id"], TIGHT_SIZE)
            )
            churn = stack.enter_context(Churn(lab.api_port, self._ledger, names, places, options.seed))
            pulse = Pulse(world, lab.driver, self._dice)
            strangers = self._strangers([one.kind for one in planned])
            campaign = Campaign(ground, auditor, self._ledger, churn, pulse, places, self._stages.check, strangers)
            stack.callback(campaign.close)
            with self._stages.stage("faults", len(planned)) as advance:
                for number, one in enumerate(planned, 1):
                    self._stages.note(f"{one.kind.name} {' '.join(one.victims)}")
                    strikes.append(campaign.strike(number, one))
                    self._stages.note("")
                    if not strikes[-1].held:
                        self._stages.say(_complaint(strikes[-1]))
                    advance(number)
                    if [strike.recovered for strike in strikes[-MOST_FAILURES:]] == [False] * MOST_FAILURES:
                        problems.append(f"given up after fault {number} of {len(planned)}")
                        break
            if not problems:
                others = strangers.ids if strangers else ()
                problems += campaign.clear([*(one.id for one in (*world.vpc, *world.twin)), *others])
            problems += [f"refused: {words}" for words in churn.refused]
        return tally.Campaign(
            seed=options.seed,
            ports=options.ports,
            strikes=tuple(strikes),
            requests=self._ledger.acknowledged,
            in_doubt=self._ledger.unanswered,
            seconds=time.monotonic() - started,
            problems=tuple(problems),
        )

    def _strangers(self, kinds: Sequence[faults.Kind]) -> Strangers | None:
        """A VPC on demand, when packets are real and any of these faults needs one."""
        if self._lab.driver != "ebpf" or len(self._lab.hosts) < 2 or not any(kind.deaf for kind in kinds):
            return None
        return Strangers(self._lab, self._ledger, self._stages.check)

    def _prove(self, world: World) -> None:
        if self._lab.driver == "fake":
            self.proofs += fakeproofs.prove(world, lambda _: None)
            return
        self.proofs += proofs.reachability(world, lambda _: None)
        self.proofs += proofs.isolation(world)
        self.proofs += proofs.spoofing(world, self._lab.drops)


def _tight_subnet(client: Client, vpc: Vpc) -> Resource:
    return client.create("subnets", {"name": "tight", "network_id": vpc.id, "cidr": TIGHT_CIDR, "ip_version": 4})


def _complaint(strike: tally.Strike) -> str:
    end = f"recovered after {strike.recovery_ms / 1000:.1f} s" if strike.recovered else "NOT RECOVERED"
    words = "\n  ".join(strike.violations)
    hosts = " ".join(strike.victims)
    return (
        f"fault {strike.number}, {strike.kind} {hosts} ({strike.note}): {end}, {strike.pings_lost} of {strike.pings} "
        f"pings lost\n  {words}"
    )
