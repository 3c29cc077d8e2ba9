"""Logs and pictures that a report takes in, up to its limits; what is left out is told."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence

from buildrun.console import printable, size
from buildrun.reports import log_end, terminal_text
from buildrun.reports.model import OutputReport, StepReport
from buildrun.store import files

# Bytes of each log: of its beginning and its end, where it is longer than both; and of all logs.
HEAD, TAIL = 8 << 10, 56 << 10
ALL_LOGS = 4 << 20
# Bytes of each picture, and of all of them.
PICTURE = 2 << 20
ALL_PICTURES = 8 << 20

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
}
_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")


class Attachments:
    """Takes in logs and pictures as long as there is room. root: the project's directory or URI."""

    def __init__(self, root: str) -> None:
        """Start with all the room there is."""
        self._root = root if os.path.isabs(root) else ""
        self._logs = ALL_LOGS
        self._pictures = ALL_PICTURES

    def log(self, step: StepReport) -> str:
        """Return what a step wrote, as HTML; "" where nothing is kept."""
        path = step.get("log")
        if not path:
            return ""
        try:
            head, tail, whole = log_end.ends(path, HEAD, TAIL)
        except (OSError, ValueError):
            return _note(f"The log is gone: {printable(path)}")
        if not whole:
            return ""
        if len(head) + len(tail) > self._logs:
            return _note(
                f"The log has {size(whole)}, for which there was no room: {printable(path)}"
            )
        self._logs -= len(head) + len(tail)
        missing = whole - len(head) - len(tail)
        gap = (
            _note(f"{size(missing)} left out here; all of it: {printable(path)}") if missing else ""
        )
        shown = "".join((_pre(head), gap, _pre(tail)))
        is_open = " open" if step.get("state") == "failed" else ""
        summary = f"<summary>Log<u>{size(whole)}</u></summary>"
        return f"<details class=log{is_open}>{summary}{shown}</details>"

    def pictures(self, outputs: Sequence[OutputReport]) -> str:
        """Return the pictures among the outputs, as they are now, as HTML."""
        found = [item for item in outputs if str(item.get("path")).lower().endswith(_ENDINGS)]
        shown = "".join(map(self._picture, found))
        return f"<div class=pictures>{shown}</div>" if shown else ""

    def _picture(self, output: OutputReport) -> str:
        name = printable(output["path"])
        limit = min(PICTURE, self._pictures)
        try:
            with files.open_regular(self._place(output["path"]), follow=False) as file:
                count = os.fstat(file.fileno()).st_size
                content = file.read(limit)
        except (OSError, ValueError):
            return _note(f"{name} is gone")
        if count > limit:
            return _note(f"{name} is not shown: there was no room for {size(count)}")
        kind = _kind(content)
        if kind is None:
            return _note(f"{name} is no picture")
        self._pictures -= count
        changed = " <em>has changed since</em>" if count != output["bytes"] else ""
        data = base64.b64encode(content).decode()
        shown = html.escape(name)
        image = f'<img src="data:image/{kind};base64,{data}" alt="{shown}">'
        return f"<figure>{image}<figcaption>{shown}{changed}</figcaption></figure>"

    def _place(self, path: str) -> str:
        """Return the path of a file of the project; raises OSError for what lies elsewhere."""
        base = os.path.realpath(self._root)
        real = os.path.realpath(os.path.join(base, path))
        if not self._root or not files.is_within(real, base):
            raise FileNotFoundError(path)
        return real


def _kind(content: bytes) -> str | None:
    """Return the kind of a picture, as its content tells it."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    if b"<svg" in content[:1024]:
        return "svg+xml"
    return next((kind for start, kind in _BEGINNINGS.items() if content.startswith(start)), None)


def _pre(content: bytes) -> str:
    text = terminal_text.to_html(content.decode(errors="replace"))
    return f"<pre tabindex=0>\n{text}</pre>" if text else ""


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"
