"""Why the fault suite makes only the server's wall clock jump."""

import ast
from pathlib import Path

import alcor

ROOMS = ("agent", "dataplane", "hostsvc", "paths", "wire")
"""What runs on a host, with roles/agent.py."""
WALL = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("datetime", "now"), ("datetime", "utcnow")}


def readers(source: str) -> list[int]:
    """Lines that read the wall clock."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL)
        or (isinstance(node, ast.Name) and node.id == "SystemClock")
        or (isinstance(node, ast.Attribute) and node.attr == "now_ms")
    ]


def test_nothing_on_a_host_reads_the_wall_clock() -> None:
    """So a clock that jumps there changes nothing but what TLS libraries think of certificates."""
    root = Path(alcor.__file__).parent
    files = [root / "roles" / "agent.py", *(path for room in ROOMS for path in sorted((root / room).rglob("*.py")))]
    assert len(files) > 50
    assert [(str(path), line) for path in files for line in readers(path.read_text())] == []
    assert readers("import time\ntime.time()") == [2]
    assert readers((root / "roles" / "server.py").read_text())
