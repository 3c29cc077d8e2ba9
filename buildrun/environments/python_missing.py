"""The Python that a project asks for is not on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.environments import uv
from buildrun.environments.uv_failure import locate
from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Request
    from buildrun.project.spec import PythonEnv


class PythonMissing(EnvironmentFailure):
    """No interpreter here fits; the network may have one."""

    def __init__(self, declared: PythonEnv, installed: Sequence[str], request: Request) -> None:
        """Say what was asked for and what is there."""
        there = sorted(set(installed), key=lambda text: [int(part) for part in text.split(".")])
        super().__init__(
            f"Python {declared.python} is not on this machine, which has {', '.join(there)}",
            place=locate(declared.path, declared.python or ""),
            hint=f"install it (`uv python install {declared.python}` or `pyenv install`), "
            "or ask for one that is there",
        )
        self._wanted = declared.python or ""
        self._request = request

    def obtain(self, console: Console) -> None:
        """Have uv download it, unless uv's own settings forbid; raises the error itself."""
        environ = self._request.environ
        if environ.get("UV_PYTHON_DOWNLOADS") == "never":
            raise self
        console.note(f"{self.message}; asking uv to download it")
        try:
            uv.call(
                (uv.program(environ), "python", "install", self._wanted),
                cwd=self._request.project.root,
                environ=uv.environment(environ, {}),
                console=console,
            )
        except uv.ToolFailure as failure:
            console.warn(f"uv could not: {failure.output.splitlines()[-1].strip()}")
            raise self from None
