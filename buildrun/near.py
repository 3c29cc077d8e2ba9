"""What somebody meant who has written something else."""

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
