"""From the command to the first line of a Job's log, against kubectl on the same cluster."""

from __future__ import annotations

import json
import shutil
import uuid

from benchmarks.case import Claim, Outcome
from benchmarks.cluster import Playing, play, project, repository
from benchmarks.process import Failed
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = "the first line of a Job's log, its image unchanged and pushed"
ROUNDS = 20
NEEDS = ("buildrun",)

_OURS = "`buildrun run . -b kubernetes`"
_KUBECTL = "`kubectl create` and `kubectl logs -f`"

_COMMAND = "echo first"

# As long as there is no container there is no log; whoever types it types it again.
_FOLLOW = (
    "kubectl create --validate=false -f {file} >&2 && "
    "until kubectl logs -f --pod-running-timeout=1m job/{name} 2>&-; do :; done"
)


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed, also where there is no engine."""
    if shutil.which("kubectl") is None:
        raise Failed("there is no kubectl")
    with play(bench, "docker") as playing:
        directory, ours = project(bench, playing, f"  main: {{command: {_COMMAND}}}\n")
        own = {"KUBECONFIG": playing.kubeconfig}
        build = ("build", ".", "--build-image", "--push", repository(playing), "--format", "json")
        image = json.loads(bench.output(bench.buildrun, *build, cwd=directory))["reference"]
        try:
            rows = bench.rounds_of(
                (
                    Runner(_KUBECTL, lambda: _kubectl(bench, playing, image)),
                    Runner(_OURS, lambda: bench.followed(*ours, cwd=directory, environ=own).first),
                )
            )
        finally:
            bench.output(bench.buildrun, "cache", "clear", cwd=directory)
    mine, other = rows[_OURS], rows[_KUBECTL]
    added = Claim(
        f"{_OURS} beyond {_KUBECTL}",
        (mine.median - other.median) * 1000,
        (mine.minimum - other.minimum) * 1000,
        300,
        "ms",
    )
    note = "The cluster is the tests' stand-in; its pods are containers of the machine's engine."
    return Outcome(rows, (added,), (note,))


def _kubectl(bench: Workbench, playing: Playing, image: str) -> Sample:
    own = {"KUBECONFIG": playing.kubeconfig}
    name = f"benchmark-{uuid.uuid4().hex}"
    container = {"name": "benchmark", "image": image, "command": ["bash", "-c", _COMMAND]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    file = f"{bench.write('jobs', {f'{name}.json': json.dumps(job)})}/{name}.json"
    script = _FOLLOW.format(file=file, name=name)
    sample = bench.followed("bash", "-c", script, cwd=bench.directory, environ=own).first
    bench.output("kubectl", "delete", "job", name, cwd=bench.directory, environ=own)
    return sample
