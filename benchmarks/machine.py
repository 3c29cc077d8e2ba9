"""What is said of the machine, since numbers mean nothing without it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping

from benchmarks.process import output
from benchmarks.subjects import NAMES, Subjects, interpreter


def describe(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the machine and the Python that everything is made with."""
    asked = (interpreter(), "-I", "-c", "import platform; print(platform.python_version())")
    return {
        "CPU": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": output(asked, cwd=os.sep, environ=environ).strip(),
    }


def versions(subjects: Subjects, needed: frozenset[str]) -> dict[str, str]:
    """Return the version of each installation that is compared."""
    return {name: subjects.version(name) for name in NAMES if name in needed}


def today() -> str:
    """Return the date, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def load() -> float:
    """Return the load average of the last minute; over the number of cores it spoils results."""
    return os.getloadavg()[0]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
