"""Make points near a line, and split them: ROWS SEED OUT."""

import json
import os
import random
import sys

rows, seed, out = int(float(sys.argv[1])), int(float(sys.argv[2])), sys.argv[3]
source = random.Random(seed)
points = []
for _ in range(rows):
    x = source.uniform(-1, 1)
    points.append([x, 3 * x + 2 + source.gauss(0, 0.1)])
half = rows // 2
os.makedirs(out, exist_ok=True)
for name, part in (("train.json", points[:half]), ("test.json", points[half:])):
    with open(os.path.join(out, name), "w") as file:
        json.dump(part, file)
print(f"split {rows} points")
