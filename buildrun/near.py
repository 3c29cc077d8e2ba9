"""What somebody meant who has written something else."""

import os
from collections.abc import Iterable, Mapping


def nearest(
    word: object, options: Iterable[str], synonyms: Mapping[str, str] | None = None
) -> str | None:
    """Return the option that a word stands for, whatever its case, or None where none is near.

    synonyms: options, or anything else that was meant, by other words in lower case.
    """
    text = str(word).strip().lower()
    meant = (synonyms or {}).get(text)
    if meant is not None or len(text) >= 100:
        return meant
    from difflib import get_close_matches

    lowered = {option.lower(): option for option in options}
    near = get_close_matches(text, lowered, 1)
    return lowered[near[0]] if near else None


def did_you_mean(
    word: object, options: Iterable[str], synonyms: Mapping[str, str] | None = None
) -> str:
    """Return "did you mean …?" for what ``nearest`` finds, or ""."""
    meant = nearest(word, options, synonyms)
    return f"did you mean `{meant}`?" if meant is not None else ""


def near_path(given: str, cwd: str = "") -> str:
    """Return "did you mean …?" for a path that is not there, or "" where none is like it.

    cwd: where a relative path begins. Only the first part that is not there is compared.
    """
    parts = given.split("/")
    for index, part in enumerate(parts):
        parent = os.path.join(cwd, "/".join(parts[:index]) + "/" if index else "")
        if part and not os.path.lexists(os.path.join(parent, part)):
            try:
                meant = nearest(part, os.listdir(parent or os.curdir))
            except (OSError, ValueError):
                return ""
            path = "/".join([*parts[:index], meant or "", *parts[index + 1 :]])
            return (
                f"did you mean `{path}`?"
                if meant and os.path.exists(os.path.join(cwd, path))
                else ""
            )
    return ""
