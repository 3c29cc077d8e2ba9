"""Write what throws/ says of pi to report.md."""

import json
import pathlib

rounds = [json.loads(path.read_text()) for path in sorted(pathlib.Path("throws").glob("*.json"))]
pi = 4 * sum(one["inside"] for one in rounds) / sum(one["points"] for one in rounds)
lines = ["# Pi", "", f"{len(rounds)} rounds say that it is about {pi:.3f}."]
pathlib.Path("report.md").write_text("\n".join(lines) + "\n")
print(lines[-1])
