"""The report page and the verdict, from a record."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from tests.lab.canned import canned

from alcor.lab import report
from alcor.lab.goals import goals
from alcor.lab.results import HostFigures, LabResult, Proof, Provisioned, Scale, percentile

BAD = Proof(name="gateway", expectation="answers", measured="<b>0</b> of 3", passed=False)


def test_all_is_well_says_the_last_line() -> None:
    """The last line of a lab in which everything held."""
    assert canned().passed
    assert canned().last_line == "1,000/1,000 ports ACTIVE, all proofs passed"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"proofs": (BAD,)}, "1,000/1,000 ports ACTIVE, 1 of 1 proofs FAILED: gateway"),
        ({"proofs": ()}, "1,000/1,000 ports ACTIVE; not finished: no proof was run"),
        ({"problems": ("an agent died",)}, "1,000/1,000 ports ACTIVE; not finished: an agent died"),
        (
            {"provisioned": Provisioned(ports=10, active=9, created_ms=1, active_ms=2), "problems": ("1 port is not",)},
            "9/10 ports ACTIVE; not finished: 1 port is not",
        ),
    ],
)
def test_whatever_failed_fails_the_lab(changes: dict[str, object], line: str) -> None:
    """A failed proof, no proof at all, a port that is not ACTIVE, an unfinished part: each is a failed lab."""
    assert not canned(**changes).passed
    assert canned(**changes).last_line == line


def test_the_page_is_whole_and_stands_alone() -> None:
    """Every figure, proof and goal is on it, every plot is well-formed, and it asks for nothing from elsewhere."""
    result = canned()
    page = report.render(result)
    for text in (result.last_line, *(proof.name for proof in result.proofs), *(goal.name for goal in result.goals)):
        assert text in page
    assert "src=" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(report.figures(result)) == 4
    for _, _, svg in report.figures(result):
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_record_gives_the_same_page() -> None:
    """Rendering is a function of the record."""
    assert report.render(canned()) == report.render(canned())


def test_what_is_measured_is_text_not_markup() -> None:
    """Words from the network or from errors cannot break the page."""
    page = report.render(canned(proofs=(BAD,), problems=("<script>",)))
    assert "<b>0</b>" not in page
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert "<script>" not in page


def test_a_lab_without_measurements_has_a_page() -> None:
    """What was not measured is left out."""
    result = canned(scales=(), singles_ms=(), host=HostFigures(), goals=())
    assert report.figures(result) == []
    assert "<h2>Goals</h2>" not in report.render(result)


def test_the_record_is_read_back(tmp_path: Path) -> None:
    """report.json is the record."""
    result = canned()
    page = report.write(result, tmp_path / "deep" / "report")
    assert page.read_text() == report.render(result)
    assert report.read(tmp_path / "deep" / "report" / report.JSON_NAME) == result
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b"{}", type=LabResult)


@pytest.mark.parametrize(("hosts", "ports"), [(1, 1), (3, 12), (100, 1000), (500, 100), (4000, 100_000)])
def test_the_picture_fits(hosts: int, ports: int) -> None:
    """Whatever the size of the lab: boxes inside the picture, dots inside their boxes, hidden hosts counted."""
    picture = report.picture(hosts, ports)
    assert len(picture.hosts) + picture.hidden == hosts
    for box in picture.hosts:
        assert 0 <= box.x <= picture.width - picture.box_width + 1e-6
        assert box.y + picture.box_height <= picture.height
        for x, y, _ in box.dots:
            assert box.x < x < box.x + picture.box_width
            assert box.y < y < box.y + picture.box_height
    if hosts <= 120 and ports <= 12 * hosts:
        assert sum(len(box.dots) for box in picture.hosts) == ports


def test_goals_compare_with_the_host_of_the_same_run() -> None:
    """The main job is held against what the host itself needed for as many ports."""
    host = HostFigures(
        scales=(Scale(ports=100, serial_ms=400, batch_ms=200), Scale(ports=1000, serial_ms=4000, batch_ms=1000)),
        ports=1000,
        private_mib=101,
        wiring_ms=900,
        total_ms=1000,
    )
    found = {
        goal.name: goal.reached
        for goal in goals(
            Provisioned(ports=500, active=500, created_ms=1, active_ms=751), (), [1.0] * 9 + [101.0], host
        )
    }
    assert found == {
        "500 ports, POST to all ACTIVE": False,
        "one host, 1,000 container ports": True,
        "parallel never slower than serial, on one host": True,
        "memory of an agent with 1,000 ports": False,
        "single port, POST to ACTIVE": False,
    }


def test_percentiles_are_nearest_rank() -> None:
    """Of few and of many."""
    assert percentile([5.0], 0.99) == 5.0
    assert percentile([float(n) for n in range(100)], 0.5) == 50.0
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0
    for wrong in (99, -0.01, 1.01):  # 99 would be the greatest of all, and look like a p99
        with pytest.raises(ValueError, match="no fraction"):
            percentile([1.0, 2.0], wrong)
