"""Makes the image of the project that is named first, above the image that is named second.

Prints the image's id and the peak memory in MB. The store is the third argument.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from buildrun.console import Console
from buildrun.environments.images.derive import code_image
from buildrun.environments.images.engine import Engine
from buildrun.project.model import ProjectSpec, PythonEnv
from buildrun.store.home import Home
from buildrun.workspace.fingerprints import Fingerprints


def main() -> None:
    """Make it, as a run does."""
    root, base, store = sys.argv[1:4]
    engine = Engine(os.environ)
    found = engine.image(base)
    if found is None:
        sys.exit(f"there is no image {base}; run scripts/docker-base")
    os.makedirs(store, exist_ok=True)
    made = code_image(
        engine,
        Home(store),
        found,
        ProjectSpec("benchmark", root, None, (), PythonEnv()),
        Fingerprints(root, os.path.join(store, "fingerprints")),
        refresh=False,
        console=Console(os.environ),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(json.dumps({"id": made.id, "peak": megabytes, "reused": made.reused}))


if __name__ == "__main__":
    main()
