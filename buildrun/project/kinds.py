"""Parameter types that MLflow does not know and people write all the same, and their values."""

import re

_FLOATS = frozenset(("float", "double", "number", "numeric", "real", "float32", "float64"))
_INTEGERS = frozenset(("int", "integer", "long"))
_TRUTHS = frozenset(("bool", "boolean"))
_TRUTH = re.compile(r"true|false|yes|no|on|off|[tfyn01]", re.IGNORECASE)


def is_number(kind: str) -> bool:
    """Return whether values of a type are compared as numbers."""
    return kind.lower() in _FLOATS


def misfit(kind: str, value: str) -> str:
    """Return what a value should be by its type and is not, such as ``an integer``, or ""."""
    kind = kind.lower()
    if kind in _TRUTHS:
        return "" if _TRUTH.fullmatch(value.strip()) else "true or false"
    read, what = (int, "an integer") if kind in _INTEGERS else (float, "a number")
    if kind not in _INTEGERS and kind not in _FLOATS:
        return ""
    try:
        read(value)
    except ValueError:
        return what
    return ""
