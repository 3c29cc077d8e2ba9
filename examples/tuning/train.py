"""Fit a line by gradient descent: DATA RATE OUT; metrics.jsonl grows as it learns."""

import json
import os
import sys

data, rate, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
with open(os.path.join(data, "train.json")) as file:
    points = json.load(file)
os.makedirs(out, exist_ok=True)
slope = level = 0.0
before = None
with open(os.path.join(out, "metrics.jsonl"), "w") as metrics:
    step = 0
    # A rate that is too high never comes to an end by itself.
    while True:
        errors = [slope * x + level - y for x, y in points]
        loss = sum(error * error for error in errors) / len(points)
        if step % 20 == 0:
            print(json.dumps({"step": step, "loss": loss}), file=metrics, flush=True)
        if before is not None and 0 <= before - loss < 1e-6:
            break
        before = loss
        slope -= rate * 2 * sum(e * x for e, (x, _) in zip(errors, points)) / len(points)
        level -= rate * 2 * sum(errors) / len(points)
        step += 1
with open(os.path.join(out, "model.json"), "w") as file:
    json.dump({"slope": slope, "level": level, "steps": step, "loss": loss}, file)
print(f"rate {rate}: {step} steps, loss {loss:.4f}")
