"""What a process writes of itself: JSON for machines, lines for people."""

from __future__ import annotations

import datetime
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from alcor.kit import logs


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_elsewhere_than_on_a_terminal_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", role="agent")
    logger = logging.getLogger("alcor.somewhere")
    logger.debug("nobody hears this")
    logger.warning("port %s is %s", "p-1", "gone", extra={"host": "h-1"})
    try:
        raise ValueError("a reason")
    except ValueError:
        logger.exception("it broke")
    told, broke = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    when = datetime.datetime.fromisoformat(told.pop("timestamp"))
    assert when.utcoffset() == datetime.timedelta(0)
    assert told == {
        "level": "WARNING",
        "logger": "alcor.somewhere",
        "event": "port p-1 is gone",
        "role": "agent",
        "host": "h-1",
    }
    assert "ValueError: a reason" in broke["exception"]


def test_on_a_terminal_it_is_for_people() -> None:
    """A real one: a pseudo-terminal (pty(7))."""
    ours, theirs = pty.openpty()
    begin = "import logging; from alcor.kit import logs; logs.set_up('INFO', role='agent')"
    say = f"{begin}; logging.getLogger('a').info('b', extra={{'request_id': 'r-1'}})"
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run([sys.executable, "-c", say], stderr=theirs, check=True, timeout=60)
        os.close(theirs)
        line = re.sub(r"\x1b\[[0-9;]*m", "", terminal.read(4096).decode())  # colours
    assert "INFO" in line
    assert "agent a: b request_id=r-1" in line
    assert "{" not in line


def test_what_only_a_terminal_needs_is_loaded_only_there() -> None:
    found = "import sys; from alcor.kit import logs; logs.set_up('INFO', role='agent'); sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", found], check=True, timeout=60, stderr=subprocess.PIPE)
