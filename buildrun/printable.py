"""How names and paths are shown: on one line, with nothing that a terminal would act on."""


def printable(text: str) -> str:
    """Return text as it can be shown: control characters and undecodable bytes escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
