"""Test a line on points that it has not seen: DATA MODEL OUT."""

import json
import os
import sys

data, model, out = sys.argv[1:]
with open(os.path.join(data, "test.json")) as file:
    points = json.load(file)
with open(model) as file:
    line = json.load(file)
loss = sum((line["slope"] * x + line["level"] - y) ** 2 for x, y in points) / len(points)
with open(out, "w") as file:
    json.dump({"loss": loss}, file)
print(f"test loss {loss:.4f}")
