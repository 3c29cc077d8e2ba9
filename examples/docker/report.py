"""Write the most frequent words of counts.json to report.txt."""

import json
import pathlib

counts = json.loads(pathlib.Path("counts.json").read_text())
lines = [f"{count:4} {word}" for word, count in sorted(counts.items(), key=lambda item: -item[1])]
pathlib.Path("report.txt").write_text("\n".join(lines[:5]) + "\n")
print("\n".join(lines[:5]))
