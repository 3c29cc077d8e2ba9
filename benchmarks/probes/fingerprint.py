"""Fingerprints all files of the directory that is named first, and prints the peak memory in MB.

The second argument is the index file, or nothing to remember nothing.
"""

from __future__ import annotations

import json
import resource
import sys

from buildrun.workspace.fingerprints import Fingerprints


def main() -> None:
    """Take the fingerprint once, as a run does."""
    root, index = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    prints = Fingerprints(root, index)
    taken = prints.inputs(None, ())
    if taken.problems:
        sys.exit("\n".join(taken.problems))
    prints.save()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(json.dumps({"digest": taken.digest, "peak": megabytes}))


if __name__ == "__main__":
    main()
