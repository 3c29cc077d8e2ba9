"""Count the words, lines or characters of a text."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("text", type=Path)
parser.add_argument("--unit", choices=("words", "lines", "characters"), default="words")
options = parser.parse_args()

text = options.text.read_text()
counted = {"words": text.split(), "lines": text.splitlines(), "characters": text}[options.unit]
print(f"{len(counted)} {options.unit}")
