"""A multi-step workflow: what a step leaves decides which one comes next.

Run it as `python workflow.py [DIRECTORY]`, where buildrun is installed.
"""

import json
import sys
from pathlib import Path

import buildrun

HERE = Path(__file__).parent
ENOUGH = 0.02


def main() -> None:
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "work").resolve()
    data = work / "data"
    buildrun.run(HERE, "split", parameters={"rows": 400, "out": data})
    for rate in (1e-8, 0.1):
        model = work / f"rate-{rate}"
        run = buildrun.run(HERE, "train", parameters={"data": data, "rate": rate, "out": model})
        score = work / f"score-{rate}.json"
        try:
            buildrun.run(
                HERE,
                "evaluate",
                parameters={"data": data, "model": model / "model.json", "out": score},
            )
        except buildrun.ExecutionException as error:
            sys.exit(f"{error}")
        loss = json.loads(score.read_text())["loss"]
        if loss < ENOUGH:
            print(f"good enough: rate {rate}, trained by run {run.run_id}")
            return
        print(f"not good enough: rate {rate}")
    sys.exit("no rate was good enough")


if __name__ == "__main__":
    main()
