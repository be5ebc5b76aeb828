"""A report's record with made-up but plausible numbers, for tests of the page."""

from alcor.lab.results import Goal, HostFigures, LabResult, MachineFacts, Proof, Provisioned, Scale, Step


def canned(**changes: object) -> LabResult:
    """A lab in which everything went well, with `changes`."""
    values: dict[str, object] = {
        "lab_id": "abc123",
        "driver": "ebpf",
        "driver_note": "",
        "hosts": 100,
        "provisioned": Provisioned(ports=1000, active=1000, created_ms=61.0, active_ms=2140.0),
        "proofs": (
            Proof(
                name="around all hosts",
                expectation="a ping from every one of 100 hosts to the next",
                measured="100/100 answered, 100 at the first packet, median 0.21 ms",
                passed=True,
            ),
            Proof(name="gateway", expectation="answers on every host", measured="100/100 answered", passed=True),
        ),
        "goals": (
            Goal(name="POST to all ACTIVE", goal="at most 1.5x the host's time", measured="1.31x", reached=True),
            Goal(name="memory of an agent", goal="at most 100 MiB", measured="120 MiB", reached=False),
            Goal(name="API", goal="-", measured="61 ms", reached=None),
        ),
        "steps": (Step(name="hosts and fabric", seconds=0.12), Step(name="agents", seconds=2.1)),
        "scales": tuple(Scale(ports=n, serial_ms=9.5 * n, batch_ms=8 + 1.7 * n) for n in (1, 10, 100, 1000)),
        "singles_ms": tuple(8 + (i * 7919 % 200) / 40 + (30 if i % 67 == 0 else 0) for i in range(200)),
        "host": HostFigures(
            scales=tuple(Scale(ports=n, serial_ms=5.5 * n, batch_ms=3 + 1.5 * n) for n in (10, 30, 100, 300, 1000)),
            ports=1000,
            rss_mib=71.0,
            private_mib=52.0,
        ),
        "machine": MachineFacts(
            cpu="AMD EPYC",
            cores=2,
            memory_gib=23.5,
            kernel="Linux 6.18.44",
            python="3.11.7",
            versions={"alcor": "0.1.0", "grpcio": "1.85.1"},
            load_average=0.2,
            disk="ext4",
            at="2026-11-23 22:00 UTC",
        ),
    }
    return LabResult(**{**values, **changes})  # type: ignore[arg-type]
