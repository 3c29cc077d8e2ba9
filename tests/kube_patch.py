"""The ways in which a request can describe a change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kube_status import Refused, bad_request
from kube_store import Object

MERGES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
JSON = "application/json-patch+json"


def patched(object: Object, patch: Any, kind: str) -> Object:
    """Return the object as a patch makes it; raises Refused."""
    if kind == JSON:
        if not isinstance(patch, list):
            raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        result: Any = copy.deepcopy(object)
        for step in patch:
            result = _step(result, step)
        assert isinstance(result, dict)
        return result
    if kind not in MERGES:
        text = "the body of the request was in an unknown format - accepted media types include: "
        raise Refused(415, "UnsupportedMediaType", text + ", ".join((JSON, *MERGES)))
    if not isinstance(patch, dict):
        raise bad_request("the patch is no object")
    return _merged(object, patch)


def _merged(object: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    result = copy.deepcopy(dict(object))
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            before = result.get(key)
            result[key] = _merged(before if isinstance(before, dict) else {}, value)
        else:
            result[key] = value
    return result


def _step(document: Any, step: Mapping[str, Any]) -> Any:
    *way, last = [
        part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
    ] or [""]
    try:
        at = document
        for part in way:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if isinstance(at, list):
            index = len(at) if last == "-" else int(last)
            if step["op"] == "add":
                at.insert(index, step["value"])
                return document
            key: Any = index
        else:
            key = last
        if step["op"] == "test":
            if at[key] != step["value"]:
                text = f"testing value {step['path']} failed: test failed"
                raise Refused(422, "Invalid", text)
        elif step["op"] == "remove":
            del at[key]
        elif step["op"] in ("add", "replace"):
            if step["op"] == "replace":
                at[key]
            at[key] = step["value"]
        else:
            raise bad_request(f"Unexpected kind: {step['op']}")
    except (KeyError, IndexError, ValueError, TypeError):
        text = "the server rejected our request due to an error in our request"
        raise Refused(422, "Invalid", text) from None
    return document
