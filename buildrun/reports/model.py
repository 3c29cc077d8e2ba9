"""What a report tells of a run; the stable shape of `run --report FILE.json`, which only grows."""

from typing import Literal, TypedDict

StepState = Literal["ok", "cached", "up-to-date", "failed", "skipped", "cancelled", "submitted"]


class ReasonReport(TypedDict):
    """Why a step is in its state; ``code`` is stable."""

    code: str
    detail: str


class OutputReport(TypedDict):
    """A file that a step has made; path: relative to the project."""

    path: str
    bytes: int


class EnvironmentKey(TypedDict):
    """The environment of a step; key: None for the caller's own, and for images. See plans.

    platform: that of packages which are installed elsewhere, else None.
    """

    manager: str
    key: str | None
    lock: str | None
    platform: str | None


class StepDetails(TypedDict, total=False):
    """What else is known of a step; what is not is None, or not there.

    started: seconds since the epoch. cpu_seconds: of user and system, with all processes that it
    waited for. peak_memory: bytes, of the largest of its processes, or of its container.
    parameters, command: without secrets. image: by digest. key: of its result. saved: seconds that
    its command would have taken. assurance: ``declared``, ``checked`` or ``sandboxed``.
    """

    started: float | None
    cpu_seconds: float | None
    peak_memory: int | None
    parameters: dict[str, str]
    command: str
    depends_on: list[str]
    backend: str
    environment: EnvironmentKey
    image: str | None
    key: str | None
    saved: float
    outputs: list[OutputReport]
    assurance: str | None


class StepReport(StepDetails):
    """How a step ended; exit_code: None where no command ran. log: the path of what it wrote."""

    id: str
    entry_point: str
    state: StepState
    exit_code: int | None
    seconds: float
    log: str | None
    reasons: list[ReasonReport]


class RunDetails(TypedDict, total=False):
    """What is known of a run once its project could be read, and what has stopped it.

    root: the project's directory or URI. started: seconds since the epoch. error: beside failures
    of steps.
    """

    project: str
    root: str
    entry_point: str
    started: float
    seconds: float
    error: str


class RunReport(RunDetails):
    """How a run went, as ``run --report`` writes it."""

    version: int
    run_id: str
    status: Literal["ok", "failed", "cancelled", "submitted"]
    exit_code: int
    steps: list[StepReport]
