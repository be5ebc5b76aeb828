"""`alcor lab`: wires the lab to the command line. Called by main."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console

from alcor.lab import run as lab
from alcor.lab.results import LabError, LabOptions

INTERRUPTED = 130


def run(options: LabOptions) -> int:
    """Runs the lab and answers its exit code: 0 when everything held, 1 when something did not, 130 after Ctrl-C."""
    console = Console()
    try:
        result = asyncio.run(lab.run(options, console))
    except KeyboardInterrupt:
        console.print("interrupted; the lab is cleaned up")
        return INTERRUPTED
    except LabError as error:
        print(f"alcor lab: {error}", file=sys.stderr)  # noqa: T201 - the user's answer, not a log
        return 1
    return 0 if result.passed else 1
