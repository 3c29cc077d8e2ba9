"""How the cluster is found and spoken to: by a plain kubeconfig, and by any other."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kube_cluster import Cluster
from kube_kubelet import Pod, Scripted
from kube_tls import key_and_certificate

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes.api import Api, Target
from buildrun.executors.kubernetes.auth import Connection, connect

Object = dict[str, Any]
Write = Callable[[Object], Path]


def idle(pod: Pod) -> None:
    pod.running()


@pytest.fixture(name="cluster")
def a_cluster() -> Iterator[Cluster]:
    with Cluster(Scripted(idle), token="secret", tls=True) as cluster:
        yield cluster


@pytest.fixture(name="config")
def a_config(cluster: Cluster, tmp_path: Path) -> Object:
    path = cluster.kubeconfig(tmp_path / "first", token="secret", namespace="kube-system")
    made: Object = json.loads(path.read_text())
    return made


@pytest.fixture(name="write")
def a_write(tmp_path: Path) -> Write:
    def write(config: Object) -> Path:
        path = tmp_path / "config"
        path.write_text(json.dumps(config))
        return path

    return write


def user(config: Object) -> Object:
    found: Object = config["users"][0]["user"]
    return found


def server(config: Object) -> Object:
    found: Object = config["clusters"][0]["cluster"]
    return found


def found_by(path: Path, context: str | None = None, **environ: str) -> Connection:
    return connect(context, {"KUBECONFIG": str(path), **environ})


def pods(connection: Connection) -> list[Object]:
    """Return the pods, so that whoever is refused gets an error."""
    found = Api(connection, patience=0.0).get(Target("pods", connection.namespace))
    assert found["kind"] == "PodList"
    items: list[Object] = found["items"]
    return items


def test_plain_file_is_enough(config: Object, write: Write) -> None:
    connection = found_by(write(config))
    assert connection.namespace == "kube-system"
    assert pods(connection) == []


def test_file_may_be_yaml(cluster: Cluster, config: Object, tmp_path: Path) -> None:
    path = tmp_path / "config"
    authority = server(config)["certificate-authority-data"]
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: other\npreferences: {}\n"
        f"clusters:\n- name: c\n  cluster:\n    server: {cluster.url}\n"
        f"    certificate-authority-data: {authority}\n"
        "users:\n- name: u\n  user:\n    token: secret\n"
        "contexts:\n- name: mine\n  context: {cluster: c, user: u}\n"
        "- name: other\n  context: {cluster: c, user: u, namespace: kube-system}\n"
    )
    assert found_by(path).namespace == "kube-system"
    connection = found_by(path, "mine")
    assert connection.namespace == "default"
    assert pods(connection) == []


def test_authority_may_be_a_file_beside_the_config(
    config: Object, write: Write, tmp_path: Path
) -> None:
    data = server(config).pop("certificate-authority-data")
    (tmp_path / "ca.pem").write_bytes(base64.b64decode(data))
    server(config)["certificate-authority"] = "ca.pem"
    assert pods(found_by(write(config))) == []


def test_foreign_authority_is_told(config: Object, write: Write) -> None:
    _, certificate = key_and_certificate("someone")
    server(config)["certificate-authority-data"] = base64.b64encode(certificate).decode()
    with pytest.raises(ExecutionError, match="certificate is not that of"):
        pods(found_by(write(config)))


def test_certificate_may_be_for_another_name(config: Object, write: Write) -> None:
    server(config)["tls-server-name"] = "kubernetes.default.svc"
    assert pods(found_by(write(config))) == []
    server(config)["tls-server-name"] = "other.example"
    with pytest.raises(ExecutionError, match="does not answer"):
        pods(found_by(write(config)))


@pytest.mark.parametrize("form", ["files", "data"])
def test_own_certificate_is_shown(
    cluster: Cluster, config: Object, write: Write, tmp_path: Path, form: str
) -> None:
    assert cluster.identity is not None
    key, certificate = key_and_certificate("someone")
    cluster.identity.context.load_verify_locations(cadata=certificate.decode())
    cluster.identity.context.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ExecutionError):
        pods(found_by(write(config)))
    for name, content in (("client-key", key), ("client-certificate", certificate)):
        if form == "data":
            user(config)[f"{name}-data"] = base64.b64encode(content).decode()
        else:
            (tmp_path / name).write_bytes(content)
            user(config)[name] = name
    assert pods(found_by(write(config))) == []


def with_program(config: Object, tmp_path: Path) -> None:
    """Have a program give the token, as those of clouds do."""
    program = tmp_path / "program"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "secret"},
    }
    program.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    program.chmod(0o755)
    asked = {"apiVersion": credential["apiVersion"], "command": str(program)}
    config["users"][0]["user"] = {"exec": {**asked, "interactiveMode": "Never"}}


def with_file(config: Object, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    config["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}


@pytest.mark.parametrize("change", [with_program, with_file])
def test_official_client_finds_other_credentials(
    config: Object, write: Write, tmp_path: Path, change: Callable[[Object, Path], None]
) -> None:
    change(config, tmp_path)
    assert pods(found_by(write(config))) == []


def test_proxy_of_the_file_is_used(write: Write, tmp_path: Path) -> None:
    with Cluster(Scripted(idle)) as proxy:
        config: Object = json.loads(proxy.kubeconfig(tmp_path / "first").read_text())
        server(config).update({"server": "http://cluster.invalid", "proxy-url": proxy.url})
        assert pods(found_by(write(config))) == []


def test_pod_is_reached_by_its_service_account(cluster: Cluster, tmp_path: Path) -> None:
    unshare = ("unshare", "--mount", "sh", "-ec")
    if not shutil.which("unshare") or subprocess.run((*unshare, "true"), check=False).returncode:
        pytest.skip("no namespaces can be made here")
    assert cluster.identity is not None
    (tmp_path / "ca.crt").write_bytes(cluster.identity.certificate)
    (tmp_path / "token").write_text("secret")
    (tmp_path / "namespace").write_text("kube-system\n")
    script = (
        "from buildrun.executors.kubernetes.api import Api, Target\n"
        "from buildrun.executors.kubernetes.auth import connect\n"
        "found = connect(None, {'KUBECONFIG': '/nowhere'})\n"
        "print(found.namespace, Api(found).get(Target('pods', found.namespace))['items'])\n"
    )
    there = "/run/secrets/kubernetes.io/serviceaccount"
    files = f"{tmp_path}/ca.crt {tmp_path}/token {tmp_path}/namespace"
    mount = f'mount -t tmpfs none /run && mkdir -p {there} && cp {files} {there}; exec "$@"'
    host, _, port = cluster.url.partition("://")[2].partition(":")
    done = subprocess.run(
        (*unshare, mount, "sh", sys.executable, "-c", script),
        env={**os.environ, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "kube-system []\n", done.stderr


def test_several_files_are_one(config: Object, write: Write, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "users": config["users"]}))
    del config["users"]
    both = f"{write(config)}{os.pathsep}{second}"
    assert pods(connect(None, {"KUBECONFIG": both})) == []


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        ({}, None),
        ({"token": "t"}, "Bearer t"),
        ({"username": "u", "password": "p:w"}, "Basic dTpwOnc="),
        ({"token": "t", "username": "u"}, "Bearer t"),
    ],
)
def test_credentials_of_the_file_are_sent(
    config: Object, write: Write, credentials: Mapping[str, str], sent: str | None
) -> None:
    config["users"][0]["user"] = dict(credentials)
    headers = {name.lower(): value for name, value in found_by(write(config)).headers().items()}
    assert headers.get("authorization") == sent


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.pop("clusters"), "clusters"),
        (lambda config: config.update({"current-context": "gone"}), "gone"),
        (lambda config: config["contexts"][0]["context"].pop("cluster"), "cluster"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    config: Object, write: Write, change: Callable[[Object], object], words: str
) -> None:
    change(config)
    with pytest.raises(ExecutionError) as caught:
        found_by(write(config))
    assert words in caught.value.message
    assert caught.value.place == str(write(config))


def test_hint_for_several_files_is_one_that_kubectl_understands(
    config: Object, write: Write, tmp_path: Path
) -> None:
    config["current-context"] = "gone"
    both = f"{write(config)}{os.pathsep}{tmp_path / 'second'}"
    with pytest.raises(ExecutionError) as caught:
        connect(None, {"KUBECONFIG": both})
    assert f"`KUBECONFIG={both} kubectl get jobs` must work" in (caught.value.hint or "")
