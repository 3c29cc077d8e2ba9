"""What a report tells of a run; the stable shape of `run --report FILE.json`, which only grows."""

from typing import Any, TypedDict


class Output(TypedDict):
    """A file that a step has made; path: relative to the project."""

    path: str
    bytes: int


class StepReport(TypedDict, total=False):
    """How a step ended. What is not known of it is None, or not there.

    log: the path of what it wrote. reasons: each a ``code`` and a ``detail``, why it is in its
    state. started: seconds since the epoch. cpu_seconds: of user and system, with all processes
    that it waited for. peak_memory: bytes, of the largest of its processes, or of its container.
    parameters, command: without secrets. environment: ``manager``, ``key`` and ``lock``, as in
    plans. image: by digest. key: of its result. saved: seconds that its command would have taken.
    """

    id: str
    entry_point: str
    state: str
    exit_code: int | None
    seconds: float
    log: str | None
    reasons: list[dict[str, str]]
    started: float | None
    cpu_seconds: float | None
    peak_memory: int | None
    parameters: dict[str, str]
    command: str
    depends_on: list[str]
    backend: str
    environment: dict[str, Any]
    image: str | None
    key: str | None
    saved: float
    outputs: list[Output]


class RunReport(TypedDict, total=False):
    """A run. root: the project's directory or URI. started: seconds since the epoch.

    error: what has stopped it, beside failures of steps. Before the project could be read, neither
    it nor its root and entry point are known.
    """

    version: int
    run_id: str
    status: str
    exit_code: int | None
    project: str
    root: str
    entry_point: str
    started: float
    seconds: float
    error: str
    steps: list[StepReport]
