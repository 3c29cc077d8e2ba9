"""The JSON Schemas that editors and `buildrun validate` share, and documents against them.

The schemas accept what `validate` accepts, also with warnings. Under `x-buildrun` they say how each
failing keyword is reported, and what a keyword is in the strict schema, which refuses the rest too.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import did_you_mean, is_slip, nearest
from buildrun.project.diagnostics import Edit, Findings, Path, describe
from buildrun.store.files import shipped

if TYPE_CHECKING:
    from jsonschema import Draft7Validator

NAMES = ("MLproject", "conda", "databricks_config", "kubernetes_config", "python_env")


def path(name: str) -> str:
    """Return a schema's absolute path.

    Raises KeyError for an unknown name, FileNotFoundError where the schemas are lost.
    """
    if name not in NAMES:
        raise KeyError(name)
    return shipped(f"schemas/{name}.schema.json")


def load(name: str) -> dict[str, Any]:
    """Return a schema as Python data; raises as ``path`` does."""
    with open(path(name), encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema


def strict(schema: Any) -> Any:
    """Return a schema that refuses as well what the given one only warns of."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    rules: dict[str, Rule] = schema.get("x-buildrun", {})
    more = {key: rule["strict"] for key, rule in rules.items() if "strict" in rule}
    return {key: strict(part) for key, part in schema.items()} | more


Rule = Mapping[str, Any]

# By the keyword of a schema that a value fails.
_CODES = {"type": "wrong-type", "required": "missing-key", "additionalProperties": "unknown-key"}
_MESSAGES = {
    "type": "`{label}` must be {expected}, not {actual}",
    "minLength": "`{label}` is empty",
}
_TYPES = {
    "string": "a string",
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "empty",
}
_VERSION = re.compile(r"\d+(\.\d+)*")
_LOST_SPACE = re.compile(r"(?P<key>[\w-]+)\s*[:=\s]\s*(?P<value>.*)", re.DOTALL)


@functools.cache
def validator(name: str) -> Draft7Validator:
    """Return the validator of a strict schema, made once a process; raises as `load` does."""
    from jsonschema import Draft7Validator

    return Draft7Validator(strict(load(name)))


def _type_schema() -> Any:
    schema: Any = validator("MLproject").schema
    return schema["definitions"]["type"]


def check_schema(name: str, findings: Findings) -> None:
    """Add what the schema called ``name`` finds in the document."""
    types: dict[str, list[Path]] = {}
    for error in validator(name).iter_errors(findings.document.value):
        failure = _Failure(error, tuple(error.absolute_path), _rule(error))
        if failure.rule.get("severity") == "ignore":
            continue
        if failure.rule.get("code") == "unknown-type":
            types.setdefault(_words(failure, findings)["value"], []).append(failure.path)
        elif error.validator == "additionalProperties":
            _unknown_keys(failure, findings)
        else:
            _report(failure, findings)
    if types:
        _unknown_types(types, findings)


class _Failure(NamedTuple):
    error: Any  # a ValidationError of jsonschema's
    path: Path
    rule: Rule  # what the schema says about reporting it


def _rule(error: Any) -> Rule:
    rules = error.schema.get("x-buildrun", {}) if isinstance(error.schema, dict) else {}
    rule: Rule = rules.get(error.validator, {})
    if error.validator != "type":
        return rule
    kind = "object" if isinstance(error.instance, dict) else ""
    if error.instance is None:
        kind = "null"
    elif isinstance(error.instance, (int, float)) and not isinstance(error.instance, bool):
        kind = "number"
    return {**rule, **rule.get(kind, {})}


def _report(failure: _Failure, findings: Findings) -> None:
    error, path, rule = failure
    if rule.get("code") == "missing-command" and findings.document.lends(path):
        return  # it only holds what others repeat
    words = _words(failure, findings)
    default = _MESSAGES.get(str(error.validator))
    if default is None:
        default = "`{label}` does not fit: " + error.message.replace("{", "{{").replace("}", "}}")
    message = str(rule.get("message") or default).format(**words)
    hint = str(rule.get("hint", "")).format(**words)
    if words["key"] and (written := nearest(words["key"], _unknown(error))):
        hint = f"write `{words['key']}` for `{_short(written)}`"
    code = rule.get("code", _CODES.get(str(error.validator), "bad-value"))
    fix: tuple[Edit, ...] = ()
    if code == "unquoted-version" and _VERSION.fullmatch(words["value"]):
        fix = findings.document.edit(path, f'"{words["value"]}"', (path,))
    findings.add(
        rule.get("severity", "error"),
        code,
        message,
        path,
        key=error.validator == "required" and bool(path),
        hint=hint,
        fix=fix,
    )


def _words(failure: _Failure, findings: Findings) -> dict[str, str]:
    error, path, _ = failure
    raw, instance = findings.document.raw(path), error.instance
    types = error.validator_value if error.validator == "type" else []
    types = [types] if isinstance(types, str) else types
    missing = error.validator_value if error.validator == "required" else []
    return {
        "label": _label(path),
        "parent": _label(path[:-1]),
        "actual": describe(instance),
        "value": _short("null" if not raw and instance is None else raw or instance),
        "key": next((key for key in missing if error.message.startswith(repr(key))), ""),
        "expected": " or ".join(_TYPES[kind] for kind in types),
    }


def _unknown(error: Any) -> list[str]:
    """Return the keys of what was looked at that its schema does not have."""
    return [key for key in map(str, error.instance) if key not in error.schema["properties"]]


def _label(path: Path) -> str:
    if not path:
        return "the file"
    if isinstance(path[-1], int) and len(path) > 1:
        return f"{path[-2]}[{path[-1]}]"
    return _short(path[-1])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _unknown_keys(failure: _Failure, findings: Findings) -> None:
    instance, known = failure.error.instance, list(failure.error.schema["properties"])
    lends = findings.document.lends
    unknown = [key for key in instance if key not in known and not lends((*failure.path, key))]
    lost = {key: text for key in unknown if (text := _lost_space(key, instance[key], known))}
    if lost:
        key, meant = next(iter(lost)), ", ".join(lost.values())
        message = f"`{_short(key)}` is one key without a value"
        if "default" in known:
            message = f"{message}; {_what_is_read(instance)}"
        hint = f"write `{{{meant}}}`: a space belongs after each colon"
        fix = _spaces(failure, lost, findings)
        findings.warning("lost-space", message, (*failure.path, key), key=True, hint=hint, fix=fix)
    for key in unknown:
        if key not in lost:
            _unknown_key(failure, key, known, findings)


def _unknown_key(failure: _Failure, key: object, known: list[str], findings: Findings) -> None:
    rule = failure.rule
    severity = rule.get("severity", "error")
    message = f"unknown key `{_short(key)}`" + ("; it is ignored" * (severity == "warning"))
    message = rule["message"].format(key=_short(key)) if "message" in rule else message
    hint = did_you_mean(key, known, rule.get("synonyms"))
    if "default" in known:
        hint = _parameter_hint(failure.error.instance, key) or hint
    hint = hint or f"the known keys are {_listed(known)}"
    code = rule.get("code", _CODES["additionalProperties"])
    where, fix = (*failure.path, key), _renamed(failure, key, known, findings)
    findings.add(severity, code, message, where, key=True, hint=hint, fix=fix)


def _renamed(
    failure: _Failure, key: object, known: list[str], findings: Findings
) -> tuple[Edit, ...]:
    """Return the edit that makes a misspelt key the one that is certainly meant."""
    near = [name for name in known if is_slip(str(key), name)]
    meant = nearest(key, known, failure.rule.get("synonyms"))
    if near != [meant] or near[0] in failure.error.instance:
        return ()
    path, new = (*failure.path, key), (*failure.path, near[0])
    return findings.document.edit(path, near[0], (path, new), key=True)


def _spaces(failure: _Failure, lost: Iterable[Any], findings: Findings) -> tuple[Edit, ...]:
    """Return the edits that give keys such as ``type:int`` their space, all on one line."""
    document, path, present = findings.document, failure.path, set(failure.error.instance)
    edits: tuple[Edit, ...] = ()
    lines = set()
    for key in lost:
        name, _, value = key.partition(":")
        lines.add(document.place((*path, key), key=True)[0])
        if name not in failure.error.schema["properties"] or name in present or len(lines) > 1:
            return ()
        present.add(name)
        changes = ((*path, key), (*path, name))
        edits += document.edit((*path, key), f"{name}: {value}", changes, key=True)
    return edits


def _unknown_types(paths: Mapping[str, list[Path]], findings: Findings) -> None:
    """Report types that MLflow does not know: only slips that can be mended at each place."""
    part = _type_schema()
    rule: Rule = part["x-buildrun"]["enum"]
    known = {word: word for word in part["enum"]} | rule["synonyms"]
    place = findings.document.place
    first = {word: min(paths[word], key=place) for word in paths}
    plain: dict[str, list[str]] = {}
    for word in sorted(first, key=lambda word: place(first[word])):
        if word.lower() in known:
            plain.setdefault(known[word.lower()], []).append(word)
            continue
        message = f"`{word}` is none of MLflow's types; the value is treated as text"
        meant = nearest(word, known)
        hint = f"did you mean `{known[meant]}`?" if meant is not None else rule["hint"]
        near = [kind for kind in known if is_slip(word, kind)]
        certain = near == [meant] and meant in part["enum"]
        places = {place(path): path for path in paths[word]}
        for path in places.values() if certain else [first[word]]:
            fix = findings.document.edit(path, near[0], (path,)) if certain else ()
            findings.warning(rule["code"], message, path, hint=hint, fix=fix)
    if plain:
        words = [word for those in plain.values() for word in those]
        message = f"MLflow takes any text for {_listed(words)}; buildrun warns of what does not fit"
        hint = "write " + "; ".join(f"`{kind}` for {_listed(plain[kind])}" for kind in plain)
        findings.warning(
            rule["code"], message, min((first[word] for word in words), key=place), hint=hint
        )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _lost_space(key: object, value: object, known: list[str]) -> str | None:
    """Return ``type: int`` for the key ``type:int``, which YAML takes as one word."""
    match = _LOST_SPACE.fullmatch(key) if value is None and isinstance(key, str) else None
    if match is None or match["key"] not in known:
        return None
    return f"{match['key']}: {_short(match['value'])}"


def _what_is_read(parameter: Mapping[Any, Any]) -> str:
    kind = _short(parameter.get("type") or "string")
    if parameter.get("default") is None:
        return f"what is read is a required parameter of type `{kind}`"
    return f"what is read is a parameter of type `{kind}` with a default"


def _parameter_hint(parameter: Mapping[Any, Any], key: object) -> str:
    """Return what ``{int, 0.001}`` and ``{int: int}`` were meant to be."""
    types = _type_schema()
    words = [*types["enum"], *types["x-buildrun"]["enum"]["synonyms"]]
    if isinstance(key, (int, float)) and parameter[key] is None and "default" not in parameter:
        return f"did you mean `default: {key}`?"
    if key in words and parameter[key] in (None, key):
        return f"did you mean `type: {key}`?" * ("type" not in parameter)
    return ""
