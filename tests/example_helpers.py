"""The line of an example's README that runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from step_helpers import LIMIT


def play(directory: Path, environ: Mapping[str, str | None] | None = None) -> str:
    """Run the only command that the README shows, there, and return what it writes."""
    (line,) = re.findall(r"^\$ (.*)$", (directory / "README.md").read_text(), re.MULTILINE)
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    changed = {**os.environ, "PATH": path, **(environ or {})}
    done = subprocess.run(
        ("bash", "-c", line),
        cwd=directory,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
