"""When, on what and with what something was measured: kept beside the numbers."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def circumstances(*packages: str) -> dict[str, Any]:
    """Of this moment, with the versions of the packages that are compared."""
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],  # above the cores, other work was in the way
        "threads": 1,
    }


def processor() -> str:
    """Its name, where Linux says it."""
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        for line in lines.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
