"""How far a pull or a push has come, from what an engine tells of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from buildrun.console import size

_DONE = frozenset(
    {"Pull complete", "Already exists", "Download complete", "Pushed", "Layer already exists"}
)
_MOVING = frozenset({"Downloading", "Pushing"})


class Transfer:
    """Sums up the layers of one image."""

    def __init__(self, text: str, tell: Callable[[str], None]) -> None:
        """Take what the transfer is called, and who is told."""
        self._text = text
        self._tell = tell
        self._layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take one answer of the engine."""
        layer, status = answer.get("id"), answer.get("status")
        if not isinstance(layer, str) or not isinstance(status, str):
            return
        if status in _DONE:
            self._done.add(layer)
        elif status in _MOVING:
            detail = answer.get("progressDetail") or {}
            current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
            self._layers[layer] = (current, max(current, total))
        else:
            self._layers.setdefault(layer, (0, 0))
            return
        for each in self._done:
            total = self._layers.get(each, (0, 0))[1]
            self._layers[each] = (total, total)
        current = sum(here for here, _ in self._layers.values())
        total = sum(whole for _, whole in self._layers.values())
        self._tell(f"{self._text}: {size(current)} of {size(total)}")
