"""The options of a Python program, as far as `argparse` or `click` calls tell them literally.

An option becomes a parameter only where handing over the default's text gives the program the very
value that it has without; all others are told and not guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from buildrun.project.model import Parameter

# What a program does with the text it is given.
Kind = Literal["text", "str", "int", "float", "path"]

_WORD = re.compile(r"-{0,2}[A-Za-z]\w*(-\w+)*", re.ASCII)
_OTHER_LIBRARIES = frozenset(
    ("absl", "docopt", "fire", "hydra", "jsonargparse", "plac", "simple_parsing", "tap", "typer")
)
_CHANGES_ALL = ("add_subparsers", "parse_known_args", "set_defaults")
_PARSER_OPTIONS = ("argument_default", "fromfile_prefix_chars", "prefix_chars")
_SIMPLE_KINDS: Mapping[str, Kind] = {
    "float": "float", "int": "int", "str": "str", "click.FLOAT": "float", "click.INT": "int",
    "click.STRING": "str", "click.types.FLOAT": "float", "click.FloatRange": "float",
    "click.IntRange": "int", "click.Choice": "str", "click.Path": "str", "click.File": "str",
}  # fmt: skip
# Keywords that leave an option what it is.
_HARMLESS = frozenset(("help", "metavar", "dest", "choices", "show_default", "hidden"))
_FLAG = "is a flag, which no parameter can express"
_READ = frozenset(("action", "default", "nargs", "required", "type"))
_REPEATS = (ast.For, ast.AsyncFor, ast.While, ast.Match, ast.IfExp, ast.comprehension, ast.Lambda)


class Arguments(NamedTuple):
    """Parameters, the words that hand them to the program, and what has none, with the reason."""

    parameters: Sequence[Parameter] = ()
    words: Sequence[str] = ()
    notes: Sequence[str] = ()


class _Unclear(Exception):
    """Why an option has no parameter."""


class _Call(NamedTuple):
    node: ast.Call
    conditional: bool  # it may not be reached, or more than once


def is_command_line(tree: ast.Module) -> bool:
    """Return whether a program makes a parser of `argparse`, or a command of `click`."""
    names = _imported(tree)
    made = {_dotted(call.node.func, names) for call in _calls(tree)}
    return "argparse.ArgumentParser" in made or bool(_commands(tree, names))


def is_main_guard(node: ast.If) -> bool:
    """Return whether a condition is `__name__ == "__main__"`."""
    return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))


def read(tree: ast.Module) -> Arguments:
    """Return what a program takes from its command line."""
    names = _imported(tree)
    roots = {name.split(".")[0] for name in names.values()}
    notes = [f"what it reads by `{name}` is not known" for name in sorted(roots & _OTHER_LIBRARIES)]
    if any(_dotted(node, names) == "sys.argv" for node in ast.walk(tree)):
        notes.append("it reads `sys.argv`: what it takes there is not known")
    if commands := _commands(tree, names):
        found = _of_click(commands, names)
    else:
        found = _of_argparse(list(_calls(tree)), tree, names)
    return found._replace(notes=[*notes, *found.notes])


def _of_argparse(calls: Sequence[_Call], tree: ast.Module, names: Mapping[str, str]) -> Arguments:
    added = [call for call in calls if _attribute(call) == "add_argument"]
    parsers = [
        each for each in calls if _dotted(each.node.func, names) == "argparse.ArgumentParser"
    ]
    if not added and not parsers:
        return Arguments()
    changes = [_attribute(call) for call in calls if _attribute(call) in _CHANGES_ALL]
    changes += [
        item.arg for each in parsers for item in each.node.keywords if item.arg in _PARSER_OPTIONS
    ]
    if len(parsers) != 1:
        changes.append(f"{len(parsers)} parsers" if parsers else "a parser from elsewhere")
    if changes:
        return Arguments(notes=[f"its options cannot be read: it has `{changes[0]}`"])
    exclusive = _assigned(tree, "add_mutually_exclusive_group")
    read_all = _Reader(names)
    for call in sorted(added, key=lambda call: (call.node.lineno, call.node.col_offset)):
        receiver = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
        either = isinstance(receiver, ast.Name) and receiver.id in exclusive
        either = either or (
            isinstance(receiver, ast.Call)
            and getattr(receiver.func, "attr", "") == "add_mutually_exclusive_group"
        )
        reason = "excludes others" if either else ""
        reason = "is declared under a condition or in a loop" if call.conditional else reason
        read_all.add(call.node, reason)
    return read_all.found()


def _of_click(
    commands: Sequence[ast.FunctionDef | ast.AsyncFunctionDef], names: Mapping[str, str]
) -> Arguments:
    if len(commands) > 1 or not _is_plain_command(commands[0], names):
        return Arguments(notes=["its options cannot be read: it has commands of its own"])
    read_all = _Reader(names)
    for decorator in commands[0].decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = _dotted(call.func if call else decorator, names)
        if call and name in ("click.option", "click.argument"):
            read_all.add(call, "", positional=name == "click.argument")
        elif not name.startswith("click."):
            read_all.notes.append(f"`@{name or '…'}` may add options")
    return read_all.found()


def _is_plain_command(
    function: ast.FunctionDef | ast.AsyncFunctionDef, names: Mapping[str, str]
) -> bool:
    return any(
        _dotted(getattr(each, "func", each), names) == "click.command"
        for each in function.decorator_list
    )


class _Reader:
    """Takes the calls that declare options, in order."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """Start with none; names: what is imported."""
        self.notes: list[str] = []
        self._names = names
        self._parameters: dict[str, Parameter] = {}
        self._options: list[str] = []
        self._positionals: list[str] = []
        self._lost = ""  # the first positional without a parameter

    def add(self, call: ast.Call, reason: str, *, positional: bool | None = None) -> None:
        """Take a call; reason: why it cannot be a parameter. positional: by default by its name."""
        flags = [_literal(argument) for argument in call.args]
        shown = next((str(flag) for flag in flags if str(flag).startswith("--")), None)
        shown = shown or (
            str(flags[0]) if flags and flags[0] else f"an option in line {call.lineno}"
        )
        is_click = positional is not None
        positional = not shown.startswith("-") if positional is None else positional
        try:
            if reason:
                raise _Unclear(reason)
            if not flags or not all(isinstance(each, str) for each in flags):
                raise _Unclear("has a name that is computed")
            if any("/" in each for each in flags):
                raise _Unclear(_FLAG)
            self._take(call, shown, positional=positional, is_click=is_click)
        except _Unclear as unclear:
            self.notes.append(f"`{shown}` {unclear}")
            self._lost = self._lost or (shown if positional else "")

    def found(self) -> Arguments:
        """Return all that was taken."""
        words = (*self._options, *self._positionals)
        return Arguments(tuple(self._parameters.values()), words, self.notes)

    def _take(self, call: ast.Call, shown: str, *, positional: bool, is_click: bool) -> None:
        name = shown.lstrip("-").replace("-", "_")
        if not _WORD.fullmatch(shown) or name in self._parameters:
            raise _Unclear("has a name that is no plain word, or stands twice")
        if positional and self._lost:
            raise _Unclear(f"comes after `{self._lost}`")
        given = {item.arg: item.value for item in call.keywords}
        if "is_flag" in given:
            raise _Unclear(_FLAG)
        if odd := [str(each) for each in given if each not in _READ | _HARMLESS]:
            raise _Unclear("is computed in part" if odd[0] == "None" else f"has `{odd[0]}`")
        kind = self._kind(given, is_click=is_click)
        default = _default(given, kind, shown, positional=positional, is_click=is_click)
        must_exist = is_click and default is None and self._is_existing(given.get("type"))
        is_number = kind in ("int", "float") or (
            kind is None
            and default is not None
            and not isinstance(_literal(given.get("default")), str)
        )
        declared = "float" if is_number else "path" if must_exist else "string"
        if default is not None and default.startswith("-") and not shown.startswith("--"):
            raise _Unclear(f"has a default that looks like an option, `{default}`")
        self._parameters[name] = Parameter(name, declared, default)
        field = f"{{{name}}}"
        if positional:
            self._positionals.append(field)
        else:
            # The sign keeps a value with a dash from being taken for an option. Undeclared
            # parameters come last, so no `--` stands before the positionals.
            self._options.append(f"{shown}={field}" if shown[:2] == "--" else f"{shown} {field}")

    def _kind(self, given: Mapping[str | None, ast.expr], *, is_click: bool) -> Kind | None:
        """Return what becomes of the text; None for what click makes of the default."""
        node = given.get("type")
        if node is None:
            return None if is_click else "str"
        name = _dotted(node.func if isinstance(node, ast.Call) else node, self._names)
        if name in ("bool", "click.BOOL"):
            raise _Unclear("is a truth value, which every text is but an empty one")
        if name in ("pathlib.Path", "pathlib.PurePath"):
            return "path"
        return _SIMPLE_KINDS.get(name, "text")

    def _is_existing(self, node: ast.expr | None) -> bool:
        """Return whether click itself asks for a file or directory that exists."""
        if not isinstance(node, ast.Call) or _dotted(node.func, self._names) != "click.Path":
            return False
        given = {item.arg: _literal(item.value) for item in node.keywords}
        return given.get("exists") is True and not given.get("allow_dash")


def _default(
    given: Mapping[str | None, ast.expr], kind: Kind | None, shown: str, *, positional: bool,
    is_click: bool,
) -> str | None:  # fmt: skip
    """Return the default's text, or None where a value is required; raises _Unclear."""
    action, nargs = _literal(given.get("action")), _literal(given.get("nargs"))
    if "action" in given and action != "store":
        if action in ("store_true", "store_false"):
            raise _Unclear(_FLAG)
        raise _Unclear(f"has the action `{action}`" if action else "has an action of its own")
    optional = positional and nargs == "?"
    if "nargs" in given and not optional and not (is_click and nargs == 1):
        raise _Unclear("takes several values")
    required = _literal(given.get("required"))
    if required not in (None, True, False):
        raise _Unclear("is computed in part")
    if required or (positional and not optional and not (is_click and "default" in given)):
        if is_click and required is False:
            raise _Unclear("is optional and has no default")
        return None
    value = _path_text(given.get("default")) if kind == "path" else _literal(given.get("default"))
    if value is None or "default" not in given:
        raise _Unclear(_without_default(given, shown))
    return _text(value, kind)


def _without_default(given: Mapping[str | None, ast.expr], shown: str) -> str:
    node = given.get("default")
    if node is not None and not (isinstance(node, ast.Constant) and node.value is None):
        return "has a default that is computed"
    how = f": `-P {shown[2:]}=VALUE` hands one over" if shown.startswith("--") else ""
    return f"has no default{how}"


def _text(value: object, kind: Kind | None) -> str:
    """Return what gives the same value when the program reads it; raises _Unclear."""
    kinds: dict[type, tuple[Kind | None, ...]] = {
        str: ("str", "text", "path", None), int: ("int", "float", None), float: ("float", None),
    }  # fmt: skip
    is_same = kind in kinds.get(type(value), ())
    if isinstance(value, str) and kind in ("int", "float"):
        is_same = (
            re.fullmatch(r"[+-]?\d+" if kind == "int" else r"[+-]?\d+(\.\d*)?", value) is not None
        )
    if not is_same or "\0" in str(value):
        raise _Unclear(f"has the default `{value!r}`, which no text gives back")
    return str(value)


def _path_text(node: ast.expr | None) -> Any:
    """Return the text of a literal, or of one in `Path(…)`."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        is_path = getattr(node.func, "attr", getattr(node.func, "id", "")) == "Path"
        return _literal(node.args[0]) if is_path else None
    return _literal(node)


def _literal(node: ast.expr | None) -> Any:
    """Return a literal's value, or None."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _calls(tree: ast.Module) -> Iterator[_Call]:
    """Yield every call, with whether it is certain."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, conditional = waiting.pop()
        if isinstance(node, ast.Call):
            yield _Call(node, conditional)
        conditional = (
            conditional
            or isinstance(node, (*_REPEATS, ast.ExceptHandler))
            or (isinstance(node, ast.If) and not is_main_guard(node))
        )
        waiting += [(child, conditional) for child in ast.iter_child_nodes(node)]


def _commands(
    tree: ast.Module, names: Mapping[str, str]
) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions that click makes commands or groups of."""
    kinds = ("click.command", "click.group")
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and any(
            (name := _dotted(getattr(each, "func", each), names)) in kinds
            or (name.endswith(".command") and "click" in str(names.values()))
            for each in node.decorator_list
        )
    ]


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


def _dotted(node: ast.AST, names: Mapping[str, str]) -> str:
    """Return the name that an expression spells, imports followed; empty for another one."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def _attribute(call: _Call) -> str:
    return call.node.func.attr if isinstance(call.node.func, ast.Attribute) else ""


def _assigned(tree: ast.Module, method: str) -> set[str]:
    """Return the names that the result of a method is assigned to."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "attr", "") == method
        for target in node.targets
        if isinstance(target, ast.Name)
    }
