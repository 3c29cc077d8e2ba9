"""The options of a Python program, as far as `argparse` or `click` calls tell them literally.

An option becomes a parameter only where handing over the default's text gives the program the very
value that it has without; all others are told and not guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.project.model import Parameter

_WORD = re.compile(r"-{0,2}[A-Za-z]\w*(-\w+)*", re.ASCII)
_OTHER_LIBRARIES = frozenset(
    ("absl", "docopt", "fire", "hydra", "jsonargparse", "plac", "simple_parsing", "tap", "typer")
)
# What makes it unknown which options there are, or what they are without a value.
_CHANGES_ALL = frozenset(
    ("add_subparsers", "parse_known_args", "set_defaults", "argument_default",
     "fromfile_prefix_chars", "prefix_chars")
)  # fmt: skip
_EITHER = "add_mutually_exclusive_group"
_TYPES = {
    "float": "float", "click.FLOAT": "float", "click.FloatRange": "float", "int": "int",
    "click.INT": "int", "click.IntRange": "int",
}  # fmt: skip
# The defaults that a program has in common with who gives their text, by the type.
_SAME: Mapping[str, tuple[type, ...]] = {"float": (float, int, str), "int": (int, str)}
_FLAGS = ("store_true", "store_false")
_FLAG = "is a flag, no parameter: add it to the command, or to that of another entry point"
_READ = frozenset(
    ("action", "choices", "default", "dest", "help", "hidden", "metavar", "nargs", "required",
     "show_default", "type")
)  # fmt: skip
_REPEATS = (
    ast.For, ast.AsyncFor, ast.While, ast.Match, ast.IfExp, ast.comprehension, ast.Lambda,
    ast.ExceptHandler,
)  # fmt: skip
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Arguments(NamedTuple):
    """Parameters, the words that hand them to the program, and what has none, with the reason."""

    parameters: Sequence[Parameter] = ()
    words: Sequence[str] = ()
    notes: Sequence[str] = ()


class _Unclear(Exception):
    """Why an option has no parameter."""


def is_command_line(tree: ast.Module) -> bool:
    """Return whether a program makes a parser of `argparse`, or a command of `click`."""
    names = _imported(tree)
    return bool(_commands(tree, names)) or any(
        _dotted(call.func, names) == "argparse.ArgumentParser" for call, _ in _calls(tree)
    )


def is_main_guard(node: ast.AST) -> bool:
    """Return whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )


def read(tree: ast.Module) -> Arguments:
    """Return what a program takes from its command line."""
    names = _imported(tree)
    roots = {name.split(".")[0] for name in names.values()}
    notes = [f"what it reads by `{name}` is not known" for name in sorted(roots & _OTHER_LIBRARIES)]
    if any(_dotted(node, names) == "sys.argv" for node in ast.walk(tree)):
        notes.append(
            "it reads `sys.argv`: declare what it takes there, and add that to the command"
        )
    commands = _commands(tree, names)
    found = _of_click(commands, names) if commands else _of_argparse(tree, names)
    return found._replace(notes=[*notes, *found.notes])


def _of_argparse(tree: ast.Module, names: Mapping[str, str]) -> Arguments:
    calls = list(_calls(tree))
    added = [(call, odd) for call, odd in calls if _method(call) == "add_argument"]
    parsers = [call for call, _ in calls if _dotted(call.func, names) == "argparse.ArgumentParser"]
    if not added and not parsers:
        return Arguments()
    words = {_method(call) for call, _ in calls}
    words.update(str(item.arg) for call in parsers for item in call.keywords)
    changes = sorted(words & _CHANGES_ALL)
    if len(parsers) != 1:
        changes.append(f"{len(parsers)} parsers" if parsers else "a parser from elsewhere")
    if changes:
        return Arguments(notes=[f"its options cannot be read: it has `{changes[0]}`"])
    exclusive = _assigned(tree, _EITHER)
    reader = _Reader(names)
    for call, odd in sorted(added, key=lambda item: (item[0].lineno, item[0].col_offset)):
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        reason = "is declared under a condition or in a loop" if odd else ""
        if _method(receiver) == _EITHER or getattr(receiver, "id", "") in exclusive:
            reason = "excludes others"
        reader.add(call, reason)
    return reader.found()


def _of_click(commands: Sequence[_Function], names: Mapping[str, str]) -> Arguments:
    decorators = [(each, _decorator(each, names)) for each in commands[0].decorator_list]
    if len(commands) > 1 or "click.command" not in (name for _, name in decorators):
        return Arguments(notes=["its options cannot be read: it has commands of its own"])
    reader = _Reader(names, is_click=True)
    for decorator, name in decorators:
        if isinstance(decorator, ast.Call) and name in ("click.option", "click.argument"):
            reader.add(decorator)
        elif not name.startswith("click."):
            reader.notes.append(f"`@{name or '…'}` may add options")
    return reader.found()


class _Reader:
    """Takes the calls that declare options, in order."""

    def __init__(self, names: Mapping[str, str], *, is_click: bool = False) -> None:
        """Start with none; names: what is imported."""
        self.notes: list[str] = []
        self._names, self._is_click = names, is_click
        self._parameters: dict[str, Parameter] = {}
        self._words: dict[bool, list[str]] = {False: [], True: []}  # positionals are True
        self._lost = ""  # the first positional without a parameter

    def add(self, call: ast.Call, reason: str = "") -> None:
        """Take a call; reason: why it cannot be a parameter."""
        flags = [_literal(argument) for argument in call.args]
        long = [flag for flag in flags if isinstance(flag, str) and flag.startswith("--")]
        shown = str((long or flags or [None])[0] or f"an option in line {call.lineno}")
        positional = not shown.startswith("-")
        try:
            if reason or not flags or not all(isinstance(flag, str) for flag in flags):
                raise _Unclear(reason or "has a name that is computed")
            if any("/" in flag for flag in flags):
                raise _Unclear(_FLAG)
            if positional and self._lost:
                raise _Unclear(f"comes after `{self._lost}`")
            self._take(call, shown, positional=positional)
        except _Unclear as unclear:
            self.notes.append(f"`{shown}` {unclear}")
            self._lost = self._lost or (shown if positional else "")

    def found(self) -> Arguments:
        """Return all that was taken."""
        words = (*self._words[False], *self._words[True])
        return Arguments(tuple(self._parameters.values()), words, self.notes)

    def _take(self, call: ast.Call, shown: str, *, positional: bool) -> None:
        name = shown.lstrip("-").replace("-", "_")
        if not _WORD.fullmatch(shown) or name in self._parameters:
            raise _Unclear("has a name that is no plain word, or stands twice")
        given = {str(item.arg): item.value for item in call.keywords}
        _require_plain(given, positional=positional)
        is_required = self._is_required(given, positional=positional)
        value = None if is_required else _default(given, shown)
        kind = self._kind(given, value)
        if value is not None and (type(value) not in _SAME.get(kind, (str,)) or "\0" in str(value)):
            raise _Unclear(f"has the default `{value!r}`, which no text gives back")
        is_long = shown.startswith("--")
        if str(value).startswith("-") and not is_long:
            raise _Unclear(f"has a default that looks like an option, `{value}`")
        declared = "float" if kind in _SAME else "string"
        if is_required and self._must_exist(given.get("type")):
            declared = "path"
        self._parameters[name] = Parameter(name, declared, None if value is None else str(value))
        # `=` keeps a value with a dash from being taken for an option. Undeclared parameters come
        # last in a command, so no `--` stands before the positionals.
        before = "" if positional else f"{shown}=" if is_long else f"{shown} "
        self._words[positional].append(f"{before}{{{name}}}")

    def _is_required(self, given: Mapping[str, ast.expr], *, positional: bool) -> bool:
        required = _literal(given.get("required"))
        if "required" in given and not isinstance(required, bool):
            raise _Unclear("is computed in part")
        optional = "default" in given if self._is_click else "nargs" in given
        return bool(required) or (positional and not optional and required is None)

    def _kind(self, given: Mapping[str, ast.expr], value: object) -> str:
        """Return `float`, `int`, or "" for all that stays text."""
        node = given.get("type")
        name = _dotted(getattr(node, "func", node), self._names)
        if name in ("bool", "click.BOOL"):
            raise _Unclear("is a truth value, which every text is but an empty one")
        if node is None and self._is_click:
            name = type(value).__name__
        return _TYPES.get(name, "")

    def _must_exist(self, node: ast.expr | None) -> bool:
        """Return whether click itself asks for a file or directory that exists."""
        if not isinstance(node, ast.Call) or _dotted(node.func, self._names) != "click.Path":
            return False
        given = {item.arg: _literal(item.value) for item in node.keywords}
        return given.get("exists") is True and not given.get("allow_dash")


def _require_plain(given: Mapping[str, ast.expr], *, positional: bool) -> None:
    """Raise _Unclear for what takes no value, several, or more than is known here."""
    action, nargs = _literal(given.get("action")), _literal(given.get("nargs"))
    if "is_flag" in given or action in _FLAGS:
        raise _Unclear(_FLAG)
    if "action" in given and action != "store":
        raise _Unclear(f"has the action `{action}`" if action else "has an action of its own")
    if odd := [each for each in given if each not in _READ]:
        raise _Unclear("is computed in part" if odd[0] == "None" else f"has `{odd[0]}`")
    if "nargs" in given and not (positional and nargs == "?"):
        raise _Unclear("takes several values")


def _default(given: Mapping[str, ast.expr], shown: str) -> Any:
    """Return the default, of `Path("…")` its text; raises _Unclear."""
    node = given.get("default", ast.Constant(None))
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        is_path = ast.dump(node.func) == ast.dump(given.get("type", node))
        node = node.args[0] if is_path and ast.unparse(node.func).endswith("Path") else node
    value = _literal(node)
    if value is not None:
        return value
    if not isinstance(node, ast.Constant):
        raise _Unclear("has a default that is computed")
    how = f": `-P {shown[2:]}=VALUE` hands one over" if shown.startswith("--") else ""
    raise _Unclear(f"has no default{how}")


def _literal(node: ast.expr | None) -> Any:
    """Return a literal's value, or None."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, bool]]:
    """Yield every call, and whether it may not be reached, or more than once."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, odd = waiting.pop()
        if isinstance(node, ast.Call):
            yield node, odd
        odd = odd or isinstance(node, _REPEATS)
        odd = odd or (isinstance(node, ast.If) and not is_main_guard(node))
        waiting += [(child, odd) for child in ast.iter_child_nodes(node)]


def _commands(tree: ast.Module, names: Mapping[str, str]) -> list[_Function]:
    """Return the functions that click makes commands or groups of."""
    if not any(name.split(".")[0] == "click" for name in names.values()):
        return []
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, _Function)
        and any(
            _decorator(each, names).endswith((".command", ".group")) for each in node.decorator_list
        )
    ]


def _decorator(node: ast.expr, names: Mapping[str, str]) -> str:
    return _dotted(getattr(node, "func", node), names)


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for, with its module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                name = each.name if each.asname else each.name.split(".")[0]
                found[each.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def _dotted(node: object, names: Mapping[str, str]) -> str:
    """Return the name that an expression spells, imports followed; empty for another one."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([names.get(node.id, node.id), *parts]) if isinstance(node, ast.Name) else ""


def _method(node: ast.AST) -> str:
    """Return the name of the method that an expression calls."""
    return str(getattr(getattr(node, "func", None), "attr", ""))


def _assigned(tree: ast.Module, method: str) -> set[str]:
    """Return the names that the result of a method is assigned to."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _method(node.value) == method
        for target in node.targets
        if isinstance(target, ast.Name)
    }
