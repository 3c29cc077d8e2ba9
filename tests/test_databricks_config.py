"""The backend config for Databricks: what it means, and what is refused at which place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun

from buildrun.errors import ProjectError
from buildrun.executors.backend_config import Source
from buildrun.executors.databricks.config import Config, read
from buildrun.store.memo import Memo

CLUSTER = {"spark_version": "15.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}
PYPI = {"pypi": {"package": "tweepy==4.14.0"}}


def told(_: str, __: str) -> None:
    raise AssertionError("nothing is to be warned of")


def of(tmp_path: Path, value: Any, memory: Memo | None = None) -> Config:
    """Return the config of a file that holds this."""
    (tmp_path / "cluster.json").write_text(json.dumps(value))
    return read(Source("cluster.json", os.environ, str(tmp_path), memory or Memo(), told))


def test_new_cluster_is_sent_as_it_is(tmp_path: Path) -> None:
    given = {"new_cluster": {**CLUSTER, "spark_conf": {"a": "b"}}, "libraries": [PYPI]}
    found = of(tmp_path, given)
    assert found.new_cluster == given["new_cluster"]
    assert found.libraries == (PYPI,)
    assert (found.existing_cluster_id, found.serverless, found.place) == (None, False, None)
    assert (found.timeout, found.poll, found.tags) == (None, 5.0, {})


def test_keys_of_mlflow_at_the_top_make_a_new_cluster(tmp_path: Path) -> None:
    own = {"libraries": [PYPI], "profile": "p", "tags": {"a": "b"}, "volume": "/Volumes/a/b/c"}
    mlflow = {
        "ENV_MANAGER": "local", "SYNCHRONOUS": True, "DOCKER_ARGS": {}, "STORAGE_DIR": None,
        "build_image": False, "docker_auth": {"password": "x"},
    }  # fmt: skip
    found = of(tmp_path, {**CLUSTER, **own, **mlflow})
    assert found.new_cluster == CLUSTER
    assert (found.profile, found.tags, found.place) == ("p", {"a": "b"}, "/Volumes/a/b/c")


def test_other_compute_is_named(tmp_path: Path) -> None:
    assert of(tmp_path, {"existing_cluster_id": "1-2-x"}).existing_cluster_id == "1-2-x"
    found = of(tmp_path, {"serverless": {"environment_version": "2"}})
    assert (found.serverless, found.environment_version) == (True, "2")
    assert of(tmp_path, {"serverless": True}).environment_version == "4"
    assert not of(tmp_path, {"serverless": False, "new_cluster": CLUSTER}).serverless


def test_the_rest_is_read(tmp_path: Path) -> None:
    person = {"user_name": "jane@example.com"}
    more = {"timeout": "1h30m", "poll": 2, "run_as": person, "volume": "dbfs:/Volumes/a/b/c//d/"}
    found = of(tmp_path, {"new_cluster": CLUSTER, **more})
    assert (found.timeout, found.poll, found.run_as) == (5400.0, 2.0, person)
    assert found.place == "/Volumes/a/b/c/d"
    home = "/Workspace/Users/jane@example.com/x"
    assert of(tmp_path, {"serverless": True, "workspace": home}).place == home


BAD: dict[str, tuple[Any, str, str]] = {
    "none": ({}, "1:1: it must be said once where commands run", "name one of `new_cluster`"),
    "two": (
        {"new_cluster": CLUSTER, "existing_cluster_id": "x"},
        "1:1: it must be said once where commands run", "`existing_cluster_id` and `serverless`",
    ),
    "flat too": ({**CLUSTER, "serverless": True}, "it must be said once", "name one of"),
    "slip": (
        {"new_clustr": CLUSTER, "serverless": True}, "1:2: unknown key `new_clustr`",
        "did you mean `new_cluster`?",
    ),
    "slip alone": (
        {"serverles": True, "volume": "/Volumes/a/b/c"}, "1:2: unknown key `serverles`",
        "did you mean `serverless`?",
    ),
    "cluster_id": (
        {"cluster_id": "x", "serverless": True}, "1:2: unknown key `cluster_id`",
        "did you mean `existing_cluster_id`?",
    ),
    "no version": ({"new_cluster": {"num_workers": 1}}, "`spark_version` is missing", "add"),
    "workers": (
        {"new_cluster": {**CLUSTER, "num_workers": "2"}}, "`num_workers` must be an integer", "",
    ),
    "places": (
        {"serverless": True, "volume": "/Volumes/a/b/c", "workspace": "/Workspace/x"},
        "`volume` and `workspace` stand beside each other", "keep one",
    ),
    "volume": (
        {"serverless": True, "volume": "/Volumes/a/b"}, "1:32: `volume` is no directory of a",
        "write `/Volumes/CATALOG/SCHEMA/VOLUME`",
    ),
    "outside": ({"serverless": True, "volume": "/Volumes/a/b/c/../x"}, "is no directory", "write"),
    "workspace": ({"serverless": True, "workspace": "/Users/x"}, "is no directory", "/Workspace/"),
    "time": ({"serverless": True, "poll": "fast"}, "`poll` must be a time", "such as `5s`"),
    "parts": ({"serverless": True, "poll": "0.2s"}, "not `0.2s`", "seconds as a number"),
    "zero": ({"serverless": True, "poll": "0s"}, "`poll` is no time above 0", "such as `5s`"),
    "number": ({"serverless": True, "timeout": 0}, "`timeout` must be a time", "`2h`"),
    "run as": ({"serverless": True, "run_as": {}}, "`run_as` names nobody", "user_name"),
    "two persons": (
        {"serverless": True, "run_as": {"user_name": "a", "service_principal_name": "b"}},
        "`run_as` names more than one", "keep",
    ),
    "environment": ({"serverless": {}}, "`environment_version` is missing", '"serverless": true'),
    "version": (
        {"serverless": {"environment_version": "x"}}, "must be a number in quotes, not `x`", "",
    ),
    "libraries": ({"serverless": True, "libraries": {}}, "`libraries` must be a list", ""),
    "library": ({"serverless": True, "libraries": [{}]}, "names no library", '{"pypi"'),
    "list": ([], "1:1: a Databricks backend configuration must be a JSON object", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_mistake_is_told_with_its_place(kind: str, tmp_path: Path, buildrun: Buildrun) -> None:
    value, fact, hint = BAD[kind]
    with pytest.raises(ProjectError) as error:
        of(tmp_path, value)
    assert str(error.value.place).startswith(f"{tmp_path}/cluster.json:1:")
    assert fact in str(error.value)
    assert hint in (error.value.hint or "")
    if kind not in ("none", "list", "slip"):
        assert buildrun("validate", "cluster.json").code == 1


def test_json_text_is_taken_as_well(tmp_path: Path) -> None:
    text = json.dumps({"new_cluster": CLUSTER})
    assert read(Source(text, os.environ, str(tmp_path), Memo(), told)).new_cluster == CLUSTER
    with pytest.raises(ProjectError, match=r"--backend-config:1:1: .* must be a JSON object"):
        read(Source("5", os.environ, str(tmp_path), Memo(), told))
    with pytest.raises(ProjectError, match=r"absent\.json"):
        read(Source("absent.json", os.environ, str(tmp_path), Memo(), told))


def test_keys_that_databricks_may_have_by_now_are_sent_with_a_warning(tmp_path: Path) -> None:
    warnings: list[tuple[str, str]] = []
    text = json.dumps({"new_cluster": {**CLUSTER, "nod_type_id": "x", "brand_new": 1}})
    found = read(
        Source(text, os.environ, str(tmp_path), Memo(), lambda *given: warnings.append(given))
    )
    assert found.new_cluster == {**CLUSTER, "nod_type_id": "x", "brand_new": 1}
    (slip, hint), (new, _) = warnings
    assert "unknown key `nod_type_id`; it is sent as it is" in slip
    assert hint == "did you mean `node_type_id`?"
    assert "unknown key `brand_new`; it is sent as it is" in new


def test_keys_without_effect_are_warned_of(tmp_path: Path, buildrun: Buildrun) -> None:
    value = {"new_cluster": CLUSTER, "num_workers": 8}
    (tmp_path / "cluster.json").write_text(json.dumps(value, indent=2))
    done = buildrun("validate", "cluster.json")
    assert done.code == 0
    assert "cluster.json:7:3" in done.out
    assert "`num_workers` stands beside what says where commands run" in done.out


def test_config_is_remembered_until_it_changes(tmp_path: Path) -> None:
    memory = Memo(str(tmp_path / "memo"))
    for number in (1, 1, 2):
        found = of(tmp_path, {"new_cluster": {**CLUSTER, "num_workers": number}}, memory)
        assert found.new_cluster == {**CLUSTER, "num_workers": number}
        assert found == of(tmp_path, {"new_cluster": {**CLUSTER, "num_workers": number}}, memory)
    assert list((tmp_path / "memo").rglob("*"))


@pytest.mark.parametrize(
    "more",
    [
        {"docker_image": {"url": "x", "basic_auth": {"username": "me", "password": "s3cret"}}},
        {"spark_env_vars": {"API_TOKEN": "s3cret"}},
    ],
)
def test_config_with_a_secret_is_not_remembered(more: dict[str, Any], tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    of(tmp_path, {"new_cluster": {**CLUSTER, **more}}, Memo(str(memo)))
    assert not any(b"s3cret" in path.read_bytes() for path in memo.rglob("*") if path.is_file())


def test_config_that_names_secrets_is_remembered(tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    variables = {"API_TOKEN": "{{secrets/scope/key}}"}
    of(tmp_path, {"new_cluster": {**CLUSTER, "spark_env_vars": variables}}, Memo(str(memo)))
    assert any(b"secrets/scope" in path.read_bytes() for path in memo.rglob("*") if path.is_file())


def test_schema_is_told_by_its_name(buildrun: Buildrun) -> None:
    schema = buildrun("schema", "databricks_config").data
    assert schema["properties"]["existing_cluster_id"]["description"]
    assert "num_workers" in schema["properties"]
    assert buildrun("schema", "--strict", "databricks_config").code == 0


def test_misspelt_key_is_mended(buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"serverless": true, "polll": "2s"}\n')
    assert buildrun("validate", "--fix", "c.json").code == 0
    assert json.loads((tmp_path / "c.json").read_text()) == {"serverless": True, "poll": "2s"}


@pytest.mark.parametrize(
    ("kind", "code"), [("two", "multiple-clusters"), ("places", "multiple-places")]
)
def test_what_is_said_twice_has_its_code(kind: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=rf"\[{code}\]"):
        of(tmp_path, BAD[kind][0])
