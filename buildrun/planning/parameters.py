"""Parameters checked, and filled into the text of a command."""

import os
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from buildrun.console import MASK, is_named, printable, redact
from buildrun.errors import BuildrunError, ParameterError, ProjectError
from buildrun.project.model import EntryPoint, Parameter

# Takes a parameter's name, the URI given for it and whether that is secret, and returns the path
# of a local copy.
Download = Callable[[str, str, bool], str]


class RenderedCommand(NamedTuple):
    """A command that is ready, and what it was made of.

    parameters: every value as the command gets it, without quotes; declared ones first.
    problems: what would stop a run; the text stands as far as it could be made.
    key_text: the command with ``path_mark(name)`` for each path in ``paths``, and local URIs in
        the project relative to it; it is the same on every machine.
    paths: the ``path`` parameters that lead to something on this machine, with their place.
    secrets: the parameters whose values are not to be shown. shown: the command without them.
    """

    command: str
    parameters: tuple[tuple[str, str], ...]
    problems: tuple[ParameterError, ...] = ()
    key_text: str = ""
    paths: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    shown: str = ""


def render(
    entry_point: EntryPoint,
    values: Mapping[str, str],
    cwd: str,
    download: Download | None = None,
    root: str = "",
    secrets: Collection[str] = (),
) -> RenderedCommand:
    """Return the command for these values, as MLflow computes it.

    values: what the caller gave; cwd: where relative paths begin; root: the project's.
    download: fetches remote ``path`` parameters; without it their URIs stand as they are.
    secrets: the parameters whose values come from secrets.
    Raises ParameterError for a missing or unfit value, ProjectError for a template that fails.
    """
    _require(entry_point, values)
    problems: list[ParameterError] = []
    declared = {
        parameter.name: _resolve(
            parameter._replace(secret=parameter.secret or parameter.name in secrets),
            values, cwd, download, problems,
        )
        for parameter in entry_point.parameters
    }  # fmt: skip
    extra = {name: value for name, value in values.items() if name not in declared}
    text = _text(entry_point, declared, extra)
    paths = {
        parameter.name: declared[parameter.name]
        for parameter in entry_point.parameters
        if parameter.type == "path" and os.path.isabs(declared[parameter.name])
    }
    marked = {name: path_mark(name) for name in paths}
    inside = {
        parameter.name: _within(declared[parameter.name], root)
        for parameter in entry_point.parameters
        if parameter.type == "uri"
    }
    hidden = {
        **{parameter.name: parameter.secret for parameter in entry_point.parameters},
        **{name: is_named(name) for name in extra},
        **dict.fromkeys(secrets, True),
    }
    hidden = {name: value for name, value in hidden.items() if value}
    masked = dict.fromkeys(hidden, MASK)
    return RenderedCommand(
        text,
        tuple({**declared, **extra}.items()),
        tuple(problems),
        _text(entry_point, {**declared, **inside, **marked}, extra) if marked or inside else text,
        tuple(paths.items()),
        tuple(hidden),
        _shown(entry_point, declared, extra, masked) if hidden else text,
    )


def path_mark(name: str) -> str:
    """Return what stands for a path in a portable command; no value can hold it."""
    return f"\0{name}\0"


def _text(entry_point: EntryPoint, declared: Mapping[str, str], extra: Mapping[str, str]) -> str:
    try:
        if not declared and not extra:
            return entry_point.command.format()
        from buildrun.project.quoting import fill

        return fill(entry_point.command, declared, extra)
    except ParameterError as error:
        error.place = f"entry point `{entry_point.name}`"
        raise
    except KeyError as error:
        fact = f"nothing fills the placeholder {{{printable(str(error.args[0]))}}}"
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        fact = f"the command is not a valid format string: {error}"
    raise ProjectError(
        fact,
        place=f"entry point `{entry_point.name}`",
        hint="declare the parameter, or write a literal brace twice: `{{` and `}}`",
    )


def _shown(
    entry_point: EntryPoint,
    declared: Mapping[str, str],
    extra: Mapping[str, str],
    masked: Mapping[str, str],
) -> str:
    def mask(values: Mapping[str, str]) -> dict[str, str]:
        return {name: masked.get(name, value) for name, value in values.items()}

    try:
        return _text(entry_point, mask(declared), mask(extra))
    except BuildrunError:
        return MASK  # where only plain words can stand


def _within(value: str, root: str) -> str:
    inside = root.rstrip(os.sep) + os.sep
    return f".{os.sep}{value[len(inside) :]}" if root and value.startswith(inside) else value


def is_remote(value: str) -> bool:
    """Return whether a ``path`` value has to be downloaded: it has a scheme other than file."""
    return has_scheme(value) and not value.lower().startswith("file:")


def has_scheme(value: str) -> bool:
    """Return whether a value begins like a URI (RFC 3986, section 3.1)."""
    scheme, colon, _ = value.partition(":")
    legal = scheme.replace("+", "a").replace("-", "a").replace(".", "a")
    return bool(colon) and legal.isascii() and legal.isalnum() and scheme[0].isalpha()


def _require(entry_point: EntryPoint, values: Mapping[str, str]) -> None:
    missing = [
        printable(parameter.name)
        for parameter in entry_point.parameters
        if parameter.default is None and parameter.name not in values
    ]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise ParameterError(
            f"no value given for missing parameters: {names}",
            place=f"entry point `{entry_point.name}`",
            hint="give each one: " + " ".join(f"-P {name}=VALUE" for name in missing),
        )


def _resolve(
    parameter: Parameter,
    values: Mapping[str, str],
    cwd: str,
    download: Download | None,
    problems: list[ParameterError],
) -> str:
    given = values.get(parameter.name)
    value = given if given is not None else parameter.default or ""
    if parameter.type == "float" and given is not None:
        _check_number(parameter, given)
    if not value:
        return value  # an optional path or URI that was left empty
    if parameter.type == "uri" and not has_scheme(value):
        return os.path.abspath(os.path.join(cwd, value))
    if parameter.type == "path":
        return _resolve_path(parameter, value, cwd, download, problems)
    return value


def _check_number(parameter: Parameter, value: str) -> None:
    name = printable(parameter.name)
    try:
        float(value)
    except ValueError:
        raise ParameterError(
            f"parameter `{name}` is a float, and `{_told(parameter, value)}` is not a number",
            hint=f"give a number, such as `-P {name}=0.5`, or declare the parameter as a string",
        ) from None


def _resolve_path(
    parameter: Parameter,
    value: str,
    cwd: str,
    download: Download | None,
    problems: list[ParameterError],
) -> str:
    name = printable(parameter.name)
    local = os.path.abspath(os.path.join(cwd, _without_scheme(value)))
    if os.path.exists(local):
        return local
    if is_remote(value):
        return download(parameter.name, value, parameter.secret) if download else value
    problems.append(
        ParameterError(
            f"got value `{_told(parameter, value)}` for parameter `{name}`, but there is no such "
            "file or directory",
            place=None if parameter.secret else local,
            hint="a path is taken relative to the directory that buildrun is called in",
        )
    )
    return value


def _told(parameter: Parameter, value: str) -> str:
    return MASK if parameter.secret else printable(redact(value))


def _without_scheme(value: str) -> str:
    if not value.lower().startswith("file:"):
        return value
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(value)
    host = "" if parts.netloc == "localhost" else parts.netloc
    return unquote(host + parts.path)
