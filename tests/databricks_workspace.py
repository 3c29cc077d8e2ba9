"""A Databricks workspace on this machine: answers over HTTP, keeps files, really runs tasks.

What it answers is said in `databricks_jobs`, `databricks_files` and `databricks_accounts`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import databricks_accounts
import databricks_files
import databricks_jobs
from databricks_http import LOGIN_PAGE, Answer, Fault, Refused, Request, Server
from databricks_runs import Run, Script

# Seconds; only reached where something is broken.
LIMIT = 120.0

VOLUME = "/Volumes/main/default/work"
USER = "robot@example.com"
HOME = f"/Workspace/Users/{USER}"
CLUSTER = "1129-000000-abcdefgh"
CLIENT = ("11111111-2222-3333-4444-555555555555", "dose0000000000000000000000000000")
TOKEN = "dapi00000000000000000000000000000000"

Route = tuple[str, re.Pattern[str], Callable[["Workspace", Request], Answer]]

_ROUTES: tuple[Route, ...] = tuple(
    (method, re.compile(pattern), answer)
    for module in (databricks_jobs, databricks_files, databricks_accounts)
    for method, pattern, answer in module.ROUTES
)


class Workspace:
    """A workspace, to be entered; its variables are for tests to read and to change.

    ``root`` maps what `/Volumes`, `/Workspace` and `/dbfs` are on a driver.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="databricks-"))
        self.token = TOKEN
        self.client_id, self.client_secret = CLIENT
        # All that are let in: the personal one, and those that OAuth has given.
        self.tokens = {TOKEN}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.runs: dict[int, Run] = {}
        self.scripts: list[Script] = []
        # Seconds since the epoch; a test may move it by `step`.
        self.clock = 1_790_000_000.0
        # Each look at a run takes it a state further; else `step` alone does.
        self.looks_advance = True
        # Unknown keys are passed over, as MLflow needs it.
        self.lenient = False
        self.file_limit = 5 * 2**30
        self.import_limit = self.export_limit = 10 * 2**20
        # Without, as in new workspaces, all of DBFS is refused.
        self.dbfs_root = True
        self.clusters = {CLUSTER}
        self.tracking = databricks_accounts.Tracking()
        self._expires_at: int | None = None
        self.changed = threading.Condition(threading.RLock())
        for directory in (VOLUME, HOME, "/Workspace/Shared", "/dbfs"):
            self.local(directory).mkdir(parents=True)
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Workspace:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for run in self.runs.values():
            run.driver.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables with which a client finds it."""
        return {"DATABRICKS_HOST": self.url, "DATABRICKS_TOKEN": self.token}

    def local(self, path: str) -> Path:
        """Return where a path of the workspace is on this machine."""
        return self.root / path.lstrip("/")

    def play(self, *scripts: Script) -> None:
        """Have the next runs go so, in this order; the others do what their tasks do."""
        self.scripts.extend(scripts)

    def fail(
        self,
        method: str,
        path_prefix: str,
        times: int = 1,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        """Have requests fail; method: empty for any; body: JSON or bytes, else an API error."""
        code = {429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
        said = body if body is not None else {
            "error_code": code.get(status, "INTERNAL_ERROR"), "message": "The test wants it so."
        }  # fmt: skip
        answer = Answer(status, said, headers or {})
        self.faults.append(Fault(method, path_prefix, times, answer, ""))

    def drop(
        self, method: str, path_prefix: str, times: int = 1, *, carried_out: bool = True
    ) -> None:
        """Have connections lost, after the request was carried out or before."""
        when = "after" if carried_out else "before"
        self.faults.append(Fault(method, path_prefix, times, None, when))

    def login_page(self, path_prefix: str = "/", times: int = 10**9) -> None:
        """Have requests answered by an HTML page, as a wrong host does."""
        answer = Answer(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})
        self.faults.append(Fault("", path_prefix, times, answer, ""))

    def expire_tokens(self, after: int = 0) -> None:
        """Have all tokens given so far expire when so many more requests have come."""
        self._expires_at = len(self.requests) + after

    def step(self, seconds: float = 1.0) -> None:
        """Let time pass: each run goes a state further, or ends for its timeout."""
        with self.changed:
            self.clock += seconds
            for run in self.runs.values():
                run.advance(self)

    def finish(self, run_id: int) -> None:
        """Wait until a run's process has ended by itself."""
        self.runs[run_id].driver.wait(LIMIT)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds after a request; an error where it never does."""
        with self.changed:
            assert self.changed.wait_for(holds, LIMIT), [each[:2] for each in self.requests]

    def asked(self, method: str, path_prefix: str) -> list[Request]:
        """Return the requests so far of this method and to these paths."""
        with self.changed:
            return [
                each
                for each in self.requests
                if each.method == method and each.path.startswith(path_prefix)
            ]

    def left_running(self) -> list[int]:
        """Return the runs that have not ended, or whose process is there."""
        with self.changed:
            return [
                number for number, run in self.runs.items() if not run.ended or run.driver.running()
            ]

    def handle(self, request: Request) -> Answer | None:
        """Return the answer, None for a connection that is lost."""
        with self.changed:
            self.requests.append(request)
            fault = next((each for each in self.faults if each.meets(request)), None)
            try:
                if fault is None:
                    return self._answer(request)
                if fault.drop == "after":
                    self._answer(request)
                return fault.answer
            finally:
                self.changed.notify_all()

    def _answer(self, request: Request) -> Answer:
        try:
            if not request.path.startswith(("/oidc/", "/.well-known/")):
                self._check(request)
            for method, pattern, answer in _ROUTES:
                if method == request.method and pattern.fullmatch(request.path):
                    return answer(self, request)
        except Refused as refused:
            return refused.answer
        what = f"No API found for '{request.method} {request.path}'"
        return Refused(404, "ENDPOINT_NOT_FOUND", what).answer

    def _check(self, request: Request) -> None:
        if self._expires_at is not None and len(self.requests) > self._expires_at:
            self._expires_at = None
            self.tokens.clear()
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in self.tokens:
            # The code is a number there.
            raise Refused(401, 401, "Credential was not sent or was of an unsupported type.")
