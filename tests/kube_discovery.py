"""What a Kubernetes API server tells about itself."""

from __future__ import annotations

from typing import Any

from kube_status import RESOURCES, Resource

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T10:09:04Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}

_BATCH = {"groupVersion": "batch/v1", "version": "v1"}


def discovered(path: str) -> Any:
    """Return what there is at a path, None if it is not about the server itself."""
    return {
        "/version": VERSION,
        "/api": {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        },
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [{"name": "batch", "versions": [_BATCH], "preferredVersion": _BATCH}],
        },
        "/apis/batch": {
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": "batch",
            "versions": [_BATCH],
            "preferredVersion": _BATCH,
        },
        "/api/v1": _list("v1", ""),
        "/apis/batch/v1": _list("batch/v1", "batch"),
        "/openapi/v3": {
            "paths": {
                path: {"serverRelativeURL": f"/openapi/v3/{path}?hash=0"}
                for path in ("api/v1", "apis/batch/v1")
            }
        },
        "/openapi/v3/api/v1": _openapi("/api/v1", ""),
        "/openapi/v3/apis/batch/v1": _openapi("/apis/batch/v1", "batch"),
    }.get(path.rstrip("/"))


def _list(version: str, group: str) -> Any:
    rows = []
    for resource in RESOURCES.values():
        if resource.group == group:
            rows += _rows(resource)
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
            "resources": rows}  # fmt: skip


def _rows(resource: Resource) -> list[dict[str, Any]]:
    common = {"singularName": "", "namespaced": resource.namespaced, "kind": resource.kind}
    rows: list[dict[str, Any]] = [
        {
            **common,
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "verbs": list(resource.verbs),
            "shortNames": list(resource.short),
            "categories": ["all"] if resource.plural in ("jobs", "pods") else [],
        }
    ]
    if resource.plural in ("jobs", "pods"):
        verbs = ["get", "patch", "update"]
        rows.append({**common, "name": f"{resource.plural}/status", "verbs": verbs})
    if resource.plural == "pods":
        rows.append({**common, "name": "pods/log", "verbs": ["get"]})
    return rows


def _openapi(base: str, group: str) -> Any:
    """Tell as little as makes a client ask the server to check the fields of objects."""
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    paths = {}
    for resource in RESOURCES.values():
        if resource.group == group:
            place = "/namespaces/{namespace}" if resource.namespaced else ""
            paths[f"{base}{place}/{resource.plural}/{{name}}"] = {
                "patch": {
                    "operationId": f"patch{resource.kind}",
                    "parameters": [
                        {"name": name, "in": "query", "schema": {"type": "string"}}
                        for name in names
                    ],
                    "responses": {"200": {"description": "OK"}},
                    "x-kubernetes-action": "patch",
                    "x-kubernetes-group-version-kind": {
                        "group": group, "version": resource.version, "kind": resource.kind,
                    },
                }
            }  # fmt: skip
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.34.0"},
            "paths": paths, "components": {"schemas": {}}}  # fmt: skip
