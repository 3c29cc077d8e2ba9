"""Whether a value plainly conforms to one of our schemas, without importing a validator.

Importing jsonschema takes longer than all the rest of reading a project, and most files are in
order. So they are looked at here first; whatever is not plainly in order, or not understood here,
goes to jsonschema, whose word counts. A test holds the two against each other.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}
_ANNOTATIONS = frozenset(
    {
        "$schema", "$id", "$defs", "$comment", "title", "description", "markdownDescription",
        "default", "examples", "deprecated", "x-buildrun", "then",
    }
)  # fmt: skip


class _Unsure(Exception):
    """A keyword or a value that is not understood here."""


def conforms(schema: Schema, value: Any) -> bool:
    """Return True only where ``value`` conforms to ``schema``; False may mean "ask jsonschema"."""
    try:
        return _conforms(schema, value, schema)
    except (_Unsure, RecursionError):
        return False


def _conforms(schema: Any, value: Any, root: Schema) -> bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(value, (str, int, float, bool, list, dict, type(None))):
        raise _Unsure(type(value))
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        check = _CHECKS.get(keyword)
        if check is None:
            raise _Unsure(keyword)
        if not check(wanted, value, schema, root):
            return False
    return True


def _type(wanted: Any, value: Any, _: Schema, __: Schema) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(value, float) and "integer" in names:
        raise _Unsure("1.0 is an integer to JSON Schema")
    return any(_TYPES[name](value) for name in names)


def _same(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, (list, dict, float)) or isinstance(value, (list, dict, float)):
        raise _Unsure("equality in depth")
    return type(wanted) is type(value) and bool(wanted == value)


def _properties(wanted: Any, value: Any, _: Schema, root: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    return all(_conforms(wanted[key], value[key], root) for key in value if key in wanted)


def _additional(wanted: Any, value: Any, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    if "patternProperties" in schema or not all(isinstance(key, str) for key in value):
        raise _Unsure("keys")
    extra = [key for key in value if key not in schema.get("properties", {})]
    return all(_conforms(wanted, value[key], root) for key in extra)


def _property_names(wanted: Any, value: Any, _: Schema, root: Schema) -> bool:
    return not isinstance(value, dict) or all(_conforms(wanted, key, root) for key in value)


def _items(wanted: Any, value: Any, schema: Schema, root: Schema) -> bool:
    start = len(schema.get("prefixItems", ()))
    return not isinstance(value, list) or all(
        _conforms(wanted, item, root) for item in value[start:]
    )


def _prefix_items(wanted: Any, value: Any, _: Schema, root: Schema) -> bool:
    return not isinstance(value, list) or all(
        _conforms(schema, item, root) for schema, item in zip(wanted, value, strict=False)
    )


def _bound(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Schema, Schema], bool]:
    return lambda wanted, value, *_: not _TYPES["number"](value) or holds(value, wanted)


def _reference(wanted: Any, value: Any, _: Schema, root: Schema) -> bool:
    if not wanted.startswith("#/$defs/"):
        raise _Unsure(wanted)
    return _conforms(root["$defs"][wanted.removeprefix("#/$defs/")], value, root)


def _if(wanted: Any, value: Any, schema: Schema, root: Schema) -> bool:
    if "else" in schema:
        raise _Unsure("else")
    return not _conforms(wanted, value, root) or _conforms(schema.get("then", True), value, root)


_CHECKS: dict[str, Callable[[Any, Any, Schema, Schema], bool]] = {
    "type": _type,
    "enum": lambda wanted, value, *_: any(_same(item, value) for item in wanted),
    "const": lambda wanted, value, *_: _same(wanted, value),
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _property_names,
    "items": _items,
    "prefixItems": _prefix_items,
    "$ref": _reference,
    "if": _if,
    "allOf": lambda wanted, value, _, root: all(_conforms(item, value, root) for item in wanted),
    "not": lambda wanted, value, _, root: not _conforms(wanted, value, root),
    "required": lambda wanted, value, *_: not isinstance(value, dict) or set(wanted) <= set(value),
    "pattern": lambda wanted, value, *_: (
        not isinstance(value, str) or re.search(wanted, value) is not None
    ),
    "minLength": lambda wanted, value, *_: not isinstance(value, str) or len(value) >= wanted,
    "minItems": lambda wanted, value, *_: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda wanted, value, *_: not isinstance(value, list) or len(value) <= wanted,
    "minimum": _bound(operator.ge),
    "maximum": _bound(operator.le),
    "exclusiveMinimum": _bound(operator.gt),
}
