"""Count the words of a file; run with `buildrun . -e count_words.py -P file=FILE`."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--file", type=Path, default=Path(__file__))
options = parser.parse_args()
print(len(options.file.read_text().split()))
