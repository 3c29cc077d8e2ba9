"""Count the words of a text."""

import argparse
import collections
import json
import pathlib

parser = argparse.ArgumentParser()
parser.add_argument("text", type=pathlib.Path)
parser.add_argument("--json", type=pathlib.Path)
options = parser.parse_args()

words = collections.Counter(options.text.read_text().lower().split())
print(f"{sum(words.values())} words, {len(words)} different ones")
if options.json:
    options.json.write_text(json.dumps(words, indent=2) + "\n")
