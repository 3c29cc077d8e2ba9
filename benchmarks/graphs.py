"""Projects of steps, written for buildrun and for its peers alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# So that no project is trivially small: what each input file holds.
_LINE = "a line of some length, as files have them\n"
_LINES = 25


class Node(NamedTuple):
    """A step: it copies ``src/NAME.txt`` to ``out/NAME.txt``, after the steps before it.

    before: names of steps whose outputs are inputs of this one.
    """

    name: str
    before: tuple[str, ...]

    @property
    def source(self) -> str:
        """Return the file that is its own."""
        return f"src/{self.name}.txt"

    @property
    def output(self) -> str:
        """Return the file that it makes."""
        return f"out/{self.name}.txt"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return all files that it reads."""
        return (self.source, *(f"out/{name}.txt" for name in self.before))


def chain(count: int) -> Sequence[Node]:
    """Return steps of which each needs the one before it."""
    names = _names(count)
    return [Node(name, tuple(names[max(at - 1, 0) : at])) for at, name in enumerate(names)]


def fan(count: int) -> Sequence[Node]:
    """Return one step, then many that need it, then one that needs all of these."""
    first, *middle, last = _names(count)
    return [Node(first, ()), *(Node(name, (first,)) for name in middle), Node(last, tuple(middle))]


def sources(nodes: Sequence[Node]) -> Mapping[str, str]:
    """Return the files that steps begin with."""
    return {node.source: f"{node.name}\n{_LINE * _LINES}" for node in nodes} | {"out/.keep": ""}


def as_mlproject(nodes: Sequence[Node], python: str) -> Mapping[str, str]:
    """Return the files of a project for buildrun."""
    lines = ["name: steps", "python_env: python_env.yaml", "entry_points:"]
    for node in nodes:
        lines += [
            f"  {node.name}:",
            f"    depends_on: [{', '.join(node.before)}]",
            f"    inputs: [{', '.join(node.inputs)}]",
            f"    outputs: [{node.output}]",
            f'    command: "cp {node.source} {node.output}"',
        ]
    environment = f'python: "{python}"\ndependencies: []\n'
    return {"MLproject": _text(lines), "python_env.yaml": environment, **sources(nodes)}


def as_dvc(nodes: Sequence[Node]) -> Mapping[str, str]:
    """Return the files of a project for DVC, as they are after all stages have run.

    To run a stage takes DVC the longer the more stages there are: a thousand take hours.
    """
    files = dict(sources(nodes))
    stages, locked = ["stages:"], ["schema: '2.0'", "stages:"]
    for node in nodes:
        command = [f"  {node.name}:", f"    cmd: cp {node.source} {node.output}"]
        stages += [*command, "    deps:", *(f"    - {path}" for path in node.inputs)]
        stages += ["    outs:", f"    - {node.output}"]
        text = files[node.output] = files[node.source]
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        files[f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"] = text
        locked += [*command, "    deps:"]
        for path in sorted(node.inputs):
            locked += _locked(path, files[path])
        locked += ["    outs:", *_locked(node.output, text)]
    return {**files, "dvc.yaml": _text(stages), "dvc.lock": _text(locked)}


def _locked(path: str, text: str) -> list[str]:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    lines = ("hash: md5", f"md5: {digest}", f"size: {len(text)}")
    return [f"    - path: {path}", *(f"      {line}" for line in lines)]


def as_snakemake(nodes: Sequence[Node]) -> Mapping[str, str]:
    """Return the files of a project for Snakemake.

    All outputs are asked for, in order: asked for the last one alone, Snakemake goes down a long
    chain by recursion and fails.
    """
    wanted = ", ".join(f'"{node.output}"' for node in nodes)
    lines = [f"rule all:\n    input: {wanted}"]
    for node in nodes:
        inputs = ", ".join(f'"{path}"' for path in node.inputs)
        lines += [
            f"rule {node.name}:",
            f"    input: {inputs}",
            f'    output: "{node.output}"',
            f'    shell: "cp {node.source} {node.output}"',
        ]
    return {"Snakefile": _text(lines), **sources(nodes)}


def as_make(nodes: Sequence[Node]) -> Mapping[str, str]:
    """Return the files of a project for make."""
    lines = [f"all: {nodes[-1].output}"]
    for node in nodes:
        lines += [
            f"{node.output}: {' '.join(node.inputs)}",
            f"\tcp {node.source} {node.output}",
        ]
    return {"Makefile": _text(lines), **sources(nodes)}


def _names(count: int) -> list[str]:
    """Return names for steps, the last of which is the entry point that runs by default."""
    return [*(f"step_{number:04}" for number in range(count - 1)), "main"]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
