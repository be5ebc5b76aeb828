"""The benchmark of one host: runs end to end on a few ports, cleans up, refuses what cannot be. No timing is judged."""

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from alcor.bench import host, host_bed
from alcor.dataplane.base import DataPlaneError, LocalPort

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: the benchmark drives the real kernel; run as root")


def test_measure_takes_anything_that_applies_ports() -> None:
    """All at once it is called once; serially once for each port, in order."""
    calls: list[tuple[LocalPort, ...]] = []
    ports = host_bed.container_ports(3)
    assert host.measure(lambda given: calls.append(tuple(given)), ports) >= 0
    host.measure(lambda given: calls.append(tuple(given)), ports, serial=True)
    assert [ports, *((port,) for port in ports)] == calls


@pytest.mark.parametrize(("sizes", "repeats"), [((), 1), ((0,), 1), ((host_bed.PORT_LIMIT + 1,), 1), ((1,), 0)])
def test_what_cannot_be_is_refused(sizes: tuple[int, ...], repeats: int) -> None:
    """Before anything is made."""
    with pytest.raises(DataPlaneError):
        host.run(sizes, repeats)


@pytest.mark.privileged
@privileged
def test_a_small_run_measures_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant has a timing for every repetition; the result is JSON; no mount of it is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    found = host.run((12,), 1, said.append)
    (size,) = found.sizes
    for timing in (size.on_demand, size.pool, size.reference, size.reference_threads):
        assert (12, 1) == (timing.ports, len(timing.seconds))
        assert timing.seconds[0] > 0
    assert [10] == [point.ports for point in found.scaling]
    assert found == msgspec.json.decode(msgspec.json.encode(found), type=host.HostBench)
    assert 6 == len(said)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert [] == list(tmp_path.iterdir())
