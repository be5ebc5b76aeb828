"""The machine a lab ran on, for the report. Called by run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from alcor.lab.results import LabOptions, MachineFacts
from alcor.lab.rundir import usable_run_dir

SHOWN_VERSIONS = ("alcor", "grpcio", "protobuf", "msgspec", "starlette", "uvicorn", "uvloop", "cryptography")


def facts(options: LabOptions) -> MachineFacts:
    """Processor, memory, kernel, versions, and the disk that the store will be on. Reads only."""
    run_dir = usable_run_dir(options.run_dir)
    return MachineFacts(
        cpu=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / (1 << 20),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in SHOWN_VERSIONS} | _clang(),
        load_average=os.getloadavg()[0],
        disk=file_system(run_dir),
        at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def file_system(path: Path) -> str:
    """The type of the file system that holds (or would hold) `path`."""
    resolved = path.resolve()
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split(" ")
        inside = point == "/" or resolved == Path(point) or Path(point) in resolved.parents
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _clang() -> dict[str, str]:
    try:
        text = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"clang": text.split("version ", 1)[-1].split()[0]} if "version " in text else {}
