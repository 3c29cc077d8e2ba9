"""Count the words of a poem, and show those that are most frequent, or keep all of them."""

import argparse
import collections
import json
import pathlib
import re

parser = argparse.ArgumentParser()
parser.add_argument("--most", type=float, default=5, help="how many to show")
parser.add_argument("--to", type=pathlib.Path, help="a JSON file for all counts")
options = parser.parse_args()

words = re.findall(r"[a-z]+", pathlib.Path("poem.txt").read_text().lower())
counts = collections.Counter(words)
if options.to:
    options.to.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    print(f"{len(counts)} words in {options.to}")
else:
    from tabulate import tabulate

    print(tabulate(counts.most_common(int(options.most)), headers=["word", "times"]))
