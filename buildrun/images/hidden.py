"""Names of files that hold secrets wherever they are."""

import os

# Files that hold nothing else, by the programs that write them.
_NAMES = frozenset(
    {".env", ".netrc", ".pypirc", ".git-credentials", ".databrickscfg", ".aws", ".ssh"}
)
_STARTS = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
_ENDS = (".pem",)
# Beneath a directory of that name.
_WITHIN = {".docker": "config.json"}
# Shows which variables there are, without their values.
_EXAMPLE = ".env.example"


def is_secret(path: str) -> bool:
    """Return whether a file or directory is left out of images unless it is asked for by name."""
    directory, name = os.path.split(path)
    if name in _NAMES or name.startswith(_STARTS) or name.endswith(_ENDS):
        return True
    if name.startswith(".env.") and name != _EXAMPLE:
        return True
    within = _WITHIN.get(os.path.basename(directory))
    return within is not None and name == within
