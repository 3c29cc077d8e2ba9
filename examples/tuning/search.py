"""A search for the best rate: several runs at once, and those that go astray are cancelled.

Run it as `python search.py [DIRECTORY]`, where buildrun is installed.
"""

import json
import sys
import time
from pathlib import Path

import buildrun

HERE = Path(__file__).parent
RATES = (0.01, 0.1, 0.5, 1.5)


def losses(model: Path) -> list[float]:
    """Return what a run has told so far."""
    try:
        lines = (model / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line)["loss"] for line in lines if line.endswith("\n")]


def is_astray(found: list[float]) -> bool:
    """Return whether the loss grows, or has grown beyond all numbers."""
    return len(found) > 1 and not found[-1] <= found[0]


def main() -> None:
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "work").resolve()
    data = work / "data"
    buildrun.run(HERE, "split", parameters={"out": data})
    runs = {}
    for rate in RATES:
        values = {"data": data, "rate": rate, "out": work / f"rate-{rate}"}
        runs[rate] = buildrun.run(HERE, "train", parameters=values, synchronous=False, quiet=True)
    open_runs = dict(runs)
    while open_runs:
        time.sleep(0.05)
        for rate, run in list(open_runs.items()):
            if run.get_status() != "RUNNING":
                del open_runs[rate]
            elif is_astray(losses(work / f"rate-{rate}")):
                run.cancel()
    for rate, run in runs.items():
        print(f"rate {rate}: {run.get_status()}")
    models = {
        rate: json.loads((work / f"rate-{rate}" / "model.json").read_text())
        for rate, run in runs.items()
        if run.get_status() == "FINISHED"
    }
    best = min(models, key=lambda rate: models[rate]["steps"])
    print(f"best rate: {best}, {models[best]['steps']} steps")


if __name__ == "__main__":
    main()
