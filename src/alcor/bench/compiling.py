"""C programs that a benchmark needs beside it, compiled where it runs. Called by dataplane."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alcor.dataplane.base import DataPlaneError


@contextmanager
def compiled(source: Path) -> Iterator[Path]:
    """The program made of one C file, in a directory that goes with it. Raises DataPlaneError."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise DataPlaneError("no C compiler for the benchmark's load: install gcc or clang")
    with tempfile.TemporaryDirectory(prefix="alcor-bench-") as directory:
        program = Path(directory) / source.stem
        command = [compiler, "-O2", "-Wall", str(source), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataPlaneError(f"{source.name} does not compile: {done.stderr.strip()[:500]}")
        yield program
