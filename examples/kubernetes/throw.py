"""Throw points at a square, and count those within the circle in it."""

import argparse
import json
import pathlib
import random

parser = argparse.ArgumentParser()
parser.add_argument("--points", type=float, default=100_000)
parser.add_argument("--to", type=pathlib.Path, help="directory for the counts of four rounds")
options = parser.parse_args()

inside = [0, 0, 0, 0]
each = int(options.points) // len(inside)
for number in range(len(inside)):
    chance = random.Random(number)
    inside[number] = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(each))
    print(f"round {number}: {inside[number]} of {each} inside")
if options.to is None:
    print(f"pi is about {4 * sum(inside) / (each * len(inside)):.3f}")
else:
    options.to.mkdir(exist_ok=True)
    for number, count in enumerate(inside):
        text = json.dumps({"points": each, "inside": count}) + "\n"
        (options.to / f"{number}.json").write_text(text)
