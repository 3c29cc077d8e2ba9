"""Progress and messages on standard error; credentials and control characters left out.

What a terminal shows. Bold: the names of steps and entry points that a listing is about. Dim: what
buildrun does on the way. Green: done; red: failed; yellow: warnings, and what was skipped; cyan:
hints. A word says the same each time, so that nothing needs its colour. A message begins in lower
case, has `quotes` around what may be typed, and no period at its end; its hint says what to do.
Lines break between words and go on further in, paths stay whole, and states stand below each other.
What programs write, and their commands as they begin, stay as they are; so does what programs read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

_STYLES = {
    "error": "1;31", "warning": "1;33", "hint": "36", "dim": "2", "bold": "1",
    "good": "32", "bad": "31", "stopped": "33",
}  # fmt: skip

# The styles of states of steps and runs; what is still to come has none.
_STATES = {
    **dict.fromkeys(("ok", "cached", "up-to-date", "hit"), "good"),
    **dict.fromkeys(("failed", "lost"), "bad"),
    **dict.fromkeys(("skipped", "cancelled"), "stopped"),
}

# What is said of a step in a state.
STATE_WORDS = {
    "ok": "ran",
    "cached": "from the cache",
    "up-to-date": "up to date",
    "failed": "failed",
    "skipped": "skipped",
    "cancelled": "cancelled",
    "submitted": "submitted",
}


class Console:
    """Writes to a stream; colours and live lines only where a person is looking.

    environ: NO_COLOR, CI and TERM are respected. quiet: only warnings and errors are written.
    """

    def __init__(
        self, environ: Mapping[str, str], *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        """Decide once how to write."""
        self.stream = stream if stream is not None else sys.stderr
        self.quiet = quiet
        terminal = _is_terminal(self.stream) and environ.get("TERM") != "dumb"
        self.colour = terminal and not environ.get("NO_COLOR")
        self.live = terminal and not environ.get("CI") and not quiet
        self.latest = ""
        self._open_line = False

    def style(self, text: str, name: str) -> str:
        """Return the text in a style, where colours are on."""
        return styled(text, name) if self.colour else text

    @property
    def columns(self) -> int | None:
        """Return the terminal's width, or None where programs read, which want whole lines."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or None
        except (OSError, ValueError):
            return None

    def state(self, state: str, text: str = "") -> str:
        """Return a state of a step or run, or what is said of it, in the state's colour."""
        return self.style(text or state, _STATES[state]) if state in _STATES else text or state

    def note(self, text: str) -> None:
        """Say what happens; left out when quiet."""
        if not self.quiet:
            self._write(text + "\n")

    def warn(self, text: str, hint: str = "") -> None:
        """Say what the user should know."""
        self._write(self._labelled("warning", text) + self._hint(hint))

    def error(self, text: str, hint: str = "") -> None:
        """Say what stopped the work."""
        self._write(self._labelled("error", text) + self._hint(hint))

    def progress(self, text: str) -> None:
        """Replace the live line; without a terminal, keep it as the latest that is known."""
        self.latest = text
        if self.live:
            # A longer one would go on in a second line, which the next could not replace.
            self._emit(f"\r\x1b[2K{text[: (self.columns or 121) - 1]}")
            self._open_line = True

    def raw(self, chunk: bytes) -> None:
        """Pass on what another program draws on the terminal."""
        self.done()
        # Its own terminal has turned each line's end into two characters; ours does so again.
        self._emit(chunk.replace(b"\r\n", b"\n").decode(errors="replace"))

    def done(self) -> None:
        """Remove the live line."""
        if self._open_line:
            self._emit("\r\x1b[2K")
            self._open_line = False

    def _hint(self, hint: str) -> str:
        return "\n" + self._labelled("hint", hint) if hint else ""

    def _labelled(self, name: str, text: str) -> str:
        message = wrapped(f"{name}: {printable_lines(text)}", self.columns)
        return f"{self.style(f'{name}:', name)}{message.removeprefix(f'{name}:')}\n"

    def _write(self, text: str) -> None:
        self.done()
        self._emit(text)

    def _emit(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except UnicodeEncodeError:
            self.stream.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            pass  # whoever read our messages is gone; the work goes on


def styled(text: str, name: str) -> str:
    """Return the text in a style."""
    return f"\x1b[{_STYLES[name]}m{text}\x1b[0m"


def wrapped(text: str, columns: int | None) -> str:
    """Return the text with its lines broken between words; None stands for any width."""
    if columns is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += broken(line.strip(), columns, indent, f"{indent}  ") or [""]
    return "\n".join(lines)


def broken(line: str, columns: int, first: str, rest: str) -> list[str]:
    """Return the lines of a text, broken between words; first, rest: what they begin with."""
    import textwrap

    return textwrap.wrap(
        line, max(columns, 20), initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def size(count: int) -> str:
    """Return a number of bytes for people, such as ``12.3 MB`` (powers of 1000)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Return a time for people, such as ``3 min 12 s``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def state_counts(states: Sequence[str]) -> list[tuple[str, str]]:
    """Return each state that is among these, with how many there are of it, such as ``3 ran``."""
    return [
        (state, f"{states.count(state)} {word}")
        for state, word in STATE_WORDS.items()
        if state in states
    ]


def counted(number: int, noun: str) -> str:
    """Return how many there are of something, such as ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], most: int) -> str:
    """Return names in backticks, and how many more there are than so many."""
    shown = ", ".join(f"`{printable(name)}`" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def printable(text: str) -> str:
    """Return text as it can be shown: control characters and undecodable bytes escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """Return text as ``printable`` does, but for its lines and tabs."""
    return re.sub(r"[^\n\t]+", lambda found: printable(found[0]), text)


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


# What stands for a secret where all else is shown.
MASK = "***"

# Compiled where they are used, since most runs need none of them.
_WORDS = (
    r"token|secret|password|passwd|passphrase|pwd|credentials?|api_?key|signature|sig|"
    r"(access|secret|private|account)_?key"
)
_LAST = rf"(?i)(token|secrets?|passw(or)?ds?|passphrase|(\A|_)({_WORDS}|connection_?string))\Z"
# Names in capitals are of variables. Of these a word tells wherever it stands, even the bare KEY,
# which among parameters is rather one to sort by.
_WORD = r".*(TOKEN|SECRETS?|PASSW(OR)?DS?|PASSPHRASE)|PASS|PWD|CREDENTIALS?|O?AUTH|(API)?KEYS?|SAS"
_HUMP = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|-"

# `user:password@` or `token@` behind a scheme; `git@`, the user of every git host, is no secret.
# The last `@` before a slash ends it. A password with a slash in it is no URL, but is met all the
# same: no host has a colon behind it and then anything but a port.
_USERINFO = r"(://)(?!git@|\[)(?:[^/\s\"'\\]+@|[^/@:\s\"'\\]*:(?!\d{0,5}/)[^\s\"'\\]*@)"
_IN_QUERY = _WORDS.replace("_?", "[_-]?")
_VALUE = r"=)[^&#\s\"']+"
_KEYED_QUERY = rf"(?i)([?&](?:[\w.-]*[_.-])?(?:{_IN_QUERY}){_VALUE}"
_QUERY = (
    rf"(?i)([?&](?:[\w.-]*(?:token|secret|password)|"
    rf"(?:[\w.-]*[_.-])?(?:{_IN_QUERY}|pass|pw|jwt|sas)){_VALUE}"
)


def redact(text: str) -> str:
    """Return the text with users, passwords and tokens of every URL in it left out."""
    return _redacted(text, _QUERY)


def redact_in_key(text: str) -> str:
    """Return what stands for the text in keys and locks, which stay as they are.

    Not for what is shown: ``redact`` has come to know more names of secrets.
    """
    return _redacted(text, _KEYED_QUERY)


def _redacted(text: str, query: str) -> str:
    if "://" not in text:
        return text
    return re.sub(query, rf"\1{MASK}", re.sub(_USERINFO, r"\1", text))


def has_credentials(text: str) -> bool:
    """Return whether a URL in the text bears credentials."""
    return redact(text) != text


def is_named(name: str) -> bool:
    """Return whether a parameter or variable of this name holds a secret, as its name has it."""
    return re.search(_LAST, re.sub(_HUMP, "_", name)) is not None or (
        name.isupper() and any(re.fullmatch(_WORD, word) for word in name.split("_"))
    )


def holds(name: str, value: str) -> bool:
    """Return whether a variable holds a secret, by its name or as a URL with a password."""
    return is_named(name) or has_credentials(value)


def holds_within(value: Any) -> bool:
    """Return whether a JSON value holds what looks like a secret, other than by its name alone.

    `{{secrets/SCOPE/KEY}}` is how Databricks is told a secret's name.
    """
    if isinstance(value, list):
        return any(map(holds_within, value))
    if not isinstance(value, dict):
        return False
    return any(
        holds_within(item)
        or (is_named(str(name)) and isinstance(item, str) and not item.startswith("{{secrets/"))
        for name, item in value.items()
    )


def display(path: bytes) -> str:
    """Return a path on one line and printable."""
    return printable(os.fsdecode(path))


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


def is_slip(word: str, meant: str) -> bool:
    """Return whether at most one letter too many, too few or wrong, or two swapped, differ.

    Short words, which are easily others, are no slips of each other; letter case does not count.
    """
    word, meant = word.lower(), meant.lower()
    pairs = enumerate(zip(word, meant, strict=False))
    start = next((i for i, (one, other) in pairs if one != other), min(len(word), len(meant)))
    rest, other = word[start:], meant[start:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    one = other in (rest, rest[1:]) or other[1:] in (rest, rest[1:])
    return len(meant) > 3 and (one or swapped)


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
