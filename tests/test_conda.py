"""Conda environments: channels, spellings, activation, failures and the cache of packages."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import conda_channel
import pytest
from conda_channel import PLATFORM, SITE, Package, module, python
from conftest import Buildrun, Project
from environment_harness import LIMIT, Place, Serve, served_files, write  # noqa: F401
from wheels import write_source, write_wheel

from buildrun.environments import condarc as channels
from buildrun.environments import virtual_packages
from buildrun.environments.failures import locate
from buildrun.errors import EnvironmentFailure
from buildrun.store.memo import DependencyTracker


@pytest.fixture
def place(tmp_path: Path) -> Place:
    pytest.importorskip("rattler")
    return Place(tmp_path / "place")


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    directory = tmp_path / "channel"
    conda_channel.make(directory)
    return directory


def declare(
    directory: Path, source: str | Path, *dependencies: str, rest: str = "", command: str = "true"
) -> Path:
    listed = "".join(f"  - {item}\n" for item in dependencies)
    write(
        directory,
        MLproject=(
            "name: demo\nconda_env: conda.yaml\n"
            f"entry_points:\n  main:\n    command: |\n      {command}\n"
        ),
        conda__yaml=f"channels:\n  - {source}\n  - nodefaults\ndependencies:\n{listed}{rest}",
    )
    return directory


def says(name: str) -> str:
    """Return a command that prints the version of a module."""
    return f'python -c "import {name}; print({name}.VERSION)"'


def failure(place: Place, project: Path, *arguments: str, left: int = 0, **environ: str) -> str:
    """Return the messages of a run that fails, and leaves no more environments than there were."""
    run = place.start("run", project, *arguments, **environ)
    assert run.fail() == 1
    assert len(place.leftovers()) == left
    return run.err


# --- spellings


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("alpha=1.0", "1.0"),
        ("alpha==1.0", "1.0"),
        ("alpha=1", "1.0"),
        ("alpha 1.*", "1.0"),
        ("alpha >=1,<2", "1.0"),
        ("alpha<2", "1.0"),
        ("alpha=1.0=0", "1.0"),
        ("alpha 1.0 0", "1.0"),
        ("'alpha[version=\"<2\"]'", "1.0"),
        ("alpha", "2.0"),
        ("alpha!=1.0", "2.0"),
        ("ALPHA = 2.0", "2.0"),
    ],
)
def test_match_spec_is_understood(spec: str, version: str, place: Place, channel: Path) -> None:
    project = declare(place.project(), channel.as_uri(), "python<4", spec, command=says("alpha"))
    assert place.run(project)[0].strip() == version


def test_channel_of_a_spec_is_used_after_those_of_the_file(
    place: Place, tmp_path: Path, channel: Path
) -> None:
    other = conda_channel.make(tmp_path / "other", [module("extra", "7.0"), module("alpha", "0.5")])
    for sources, spec, name, version in (
        (channel.as_uri(), f"'{other}::extra'", "extra", "7.0"),
        (f"{other}\n  - {channel}", "alpha", "alpha", "0.5"),  # the first one wins
    ):
        project = declare(place.project(), sources, "python", spec, command=says(name))
        assert place.run(project)[0].strip() == version


def test_channel_may_be_a_path_beside_the_file(place: Place) -> None:
    project = place.project()
    conda_channel.make(project / "channel")
    declare(project, "./channel", "python", "pure")
    place.run(project)
    assert (place.prefix(project) / SITE / "pure.py").is_file()
    moved = place.project("moved")
    shutil.copytree(project, moved, dirs_exist_ok=True)
    assert "building" not in place.run(moved)[1]


# --- activation


def test_activation_is_as_conda_would_have_it(place: Place, channel: Path) -> None:
    names = ("CONDA_PREFIX", "TOOL_HOME", "TOOL_KIND", "TOOL_PATH", "GREETING", "TOOL_LEGACY")
    code = f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))"
    project = declare(
        place.project(), channel.as_uri(), "python", "tool",
        rest="variables:\n  GREETING: hello\n", command="python show.py; tool-says",
    )  # fmt: skip
    write(project, show__py=code)
    prefix = str(place.prefix(project))
    caller = {"TOOL_LEGACY": "1", "VIRTUAL_ENV": "/venv"}
    out = place.run(project, **caller)[0].splitlines()
    ours = [prefix, f"{prefix}/share/tool", "hammer", f"{prefix}/tool:", "hello", None]
    assert json.loads(out[0]) == ours
    assert out[1] == f"tool in {prefix}"
    ours[3] = f"{prefix}/tool:/mine"
    out = place.run(project, **caller, TOOL_PATH="/mine")[0].splitlines()
    assert json.loads(out[0]) == ours


def test_failing_activation_script_is_passed_over(place: Place, tmp_path: Path) -> None:
    files = {"etc/conda/activate.d/bad.sh": "export GOOD=1\nfalse\nno-such-command\n"}
    source = conda_channel.make(tmp_path / "c", [Package("bad", files=files)])
    project = declare(place.project(), source, "bad", command="echo got $GOOD")
    assert place.run(project)[0].strip() == "got 1"


# --- the pip section


def test_pip_section_is_installed_relative_to_the_file(place: Place, channel: Path) -> None:
    project = place.project()
    write_wheel(project / "w", "delta", "3.0")
    rest = "  - pip:\n    - ./w/delta-3.0-py3-none-any.whl\n"
    declare(
        project, channel.as_uri(), "python", rest=rest,
        command=says("delta"),
    )  # fmt: skip
    out, said = place.run(project)
    assert out.strip() == "3.0"
    assert "damaged" not in said


def test_edit_of_a_local_package_in_the_pip_section_is_installed(
    place: Place, channel: Path
) -> None:
    project = place.project()
    module = write_source(project / "local")
    declare(
        project, channel.as_uri(), "python", rest="  - pip:\n    - ./local\n",
        command=says("alpha"),
    )  # fmt: skip
    assert place.run(project)[0] == "7\n"
    before = module.stat()
    module.write_text("VERSION = 10\n")
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.run(project)[0] == "10\n"
    assert sorted(os.listdir(project / "local")) == ["alpha.py", "backend.py", "pyproject.toml"]


# --- failures


@pytest.mark.parametrize(
    ("dependencies", "said"),
    [
        (("python", "nonesuch >=1"),
         ("conda.yaml:6:5: the environment could not be built",
          "No candidates were found for nonesuch", "add the channel that has it")),
        (("python", "beta", "gamma"),
         ("alpha <2", "alpha >=2", "conda.yaml:", "loosen or correct")),
        (("choosy",), ("__glibc >=99",)),
        (("alpha=>1.2",), ("alpha=>1.2",)),
        (("data", "pip: [six]"), ("needs a Python", "add `python` to the dependencies")),
        (("python", "pip: [./nowhere-1.0-py3-none-any.whl]"), ("nowhere-1.0-py3-none-any.whl",)),
    ],
)  # fmt: skip
def test_what_cannot_be_installed_is_explained(
    dependencies: tuple[str, ...], said: tuple[str, ...], place: Place, channel: Path
) -> None:
    err = failure(place, declare(place.project(), channel.as_uri(), *dependencies))
    assert [text for text in said if text not in err] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("file:///nowhere",
         ("could not find subdir", "conda.yaml:2:5", "check the channel's name and address")),
        ("http://user:secret@127.0.0.1:9/t/token-1/chan",
         ("Connection refused", "check the network")),
    ],
)  # fmt: skip
def test_channel_that_cannot_be_read_is_explained(
    source: str, said: tuple[str, ...], place: Place
) -> None:
    err = failure(place, declare(place.project(), source, "python"))
    assert [text for text in said if text not in err] == []
    assert not [text for text in ("secret", "token-1") if text in err]


@pytest.mark.parametrize("remote", [False, True])
def test_wrong_hash_is_refused(remote: bool, place: Place, channel: Path, serve: Serve) -> None:
    source = serve(channel) if remote else channel.as_uri()
    project = declare(place.project(), source, "damaged")
    said = failure(place, project)
    assert "hash mismatch" in said
    assert "do not use it blindly" in said


def test_certificate_that_nobody_vouches_for(
    place: Place, channel: Path, serve: Serve, tmp_path: Path
) -> None:
    authority, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=localhost -addext "
    words += "subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    command = ("openssl", *words.split(), "-keyout", str(key), "-out", str(authority))
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    source = serve(channel, context=context)
    project = declare(place.project(), source, "data")
    said = failure(place, project)
    assert "certificate" in said
    assert "SSL_CERT_FILE" in said
    for environ in (
        {"REQUESTS_CA_BUNDLE": str(authority), "SSL_CERT_FILE": ""},
        {"SSL_CERT_FILE": str(authority)},
        {"CONDA_SSL_VERIFY": str(authority)},
        {"CONDA_SSL_VERIFY": "false"},
    ):
        place.run(project, "--refresh", **environ)
        shutil.rmtree(place.store / "conda")


# --- credentials and offline


def test_credentials_come_from_netrc(place: Place, channel: Path, serve: Serve) -> None:
    source = serve(channel, secret="bob:pw")
    project = declare(place.project(), source, "data")
    said = failure(place, project)
    assert "401" in said
    assert "~/.netrc" in said
    netrc = place.directory / "home" / ".netrc"
    netrc.write_text("machine localhost login bob password pw\n")
    netrc.chmod(0o600)
    place.run(project)


def test_credentials_come_from_rattlers_file(place: Place, channel: Path, serve: Serve) -> None:
    source = serve(channel, secret="bob:pw")
    project = declare(place.project(), source, "data")
    file = place.directory / "credentials.json"
    entry = {"BasicHTTP": {"username": "bob", "password": "pw"}}
    file.write_text(json.dumps({source.partition("//")[2]: entry, "localhost": entry}))
    place.run(project, RATTLER_AUTH_FILE=str(file))


def test_credentials_may_stand_in_the_channel_and_in_variables(
    place: Place, channel: Path, serve: Serve
) -> None:
    source = serve(channel, secret="bob:pw").replace("//", "//bob:${CHANNEL_PASSWORD}@")
    project = declare(place.project(), source, "data")
    place.run(project, CHANNEL_PASSWORD="pw")
    kept = [path for path in place.store.rglob("*.json") if b":pw@" in path.read_bytes()]
    assert not [path for path in kept if "index" in path.parts or path.name == ".buildrun.json"]


def test_offline_says_what_is_missing(place: Place, channel: Path, serve: Serve) -> None:
    project = declare(place.project(), serve(channel), "data")
    said = failure(place, project, "--offline")
    assert "run once without `--offline`" in said
    place.run(project)
    declare(project, serve(channel), "data", "pure", "python")
    assert "run once without `--offline`" in failure(place, project, "--offline", left=1)


def test_offline_builds_from_what_was_fetched(place: Place, channel: Path, serve: Serve) -> None:
    project = declare(place.project(), serve(channel), "data")
    place.run(project)
    place.run(project, "--offline", "--refresh")


# --- the cache of packages


def test_same_name_of_two_channels_is_not_mixed_up(place: Place, tmp_path: Path) -> None:
    for text in ("one", "two"):
        files = {"share/text.txt": text}
        source = conda_channel.make(tmp_path / text, [Package("data", files=files)])
        project = declare(place.project(text), source, "data", command="cat $CONDA_PREFIX/share/*")
        assert place.run(project)[0] == text


def test_failed_fetch_does_not_make_old_content_pass_for_new(place: Place, tmp_path: Path) -> None:
    def provide(text: str, *, damaged: bool) -> Path:
        package = Package("data", files={"share/text.txt": text}, damaged=damaged)
        source = conda_channel.make(tmp_path / "channel", [package])
        return declare(place.project(), source, "data", command="cat $CONDA_PREFIX/share/*")

    assert place.run(provide("old", damaged=False))[0] == "old"
    run = place.start("run", provide("new", damaged=True), "--refresh")
    assert run.fail() == 1
    assert place.run(provide("new", damaged=False), "--refresh")[0] == "new"


def test_what_a_kill_left_in_the_cache_is_swept_away(place: Place, channel: Path) -> None:
    left = place.store / "conda" / "pkgs" / ".data-1.0-0abc"
    left.mkdir(parents=True)
    (left / "half").touch()
    place.run(declare(place.project(), channel.as_uri(), "data"))
    assert not left.exists()


def test_similar_environments_share_their_files(place: Place, channel: Path) -> None:
    paths = []
    for more in ("pure", "tool"):
        project = declare(place.project(more), channel.as_uri(), "python", "data", more)
        place.run(project)
        paths.append(place.prefix(project) / "share" / "data.txt")
    one, other = (path.stat() for path in paths)
    assert one.st_ino == other.st_ino or one.st_nlink == 1  # a reflink is as good


def test_rattlers_own_cache_is_used_where_it_is_named(place: Place, channel: Path) -> None:
    cache = place.directory / "shared"
    place.run(declare(place.project(), channel.as_uri(), "data"), RATTLER_CACHE_DIR=str(cache))
    assert (cache / "pkgs" / "data-1.0-0").is_dir()
    assert not (place.store / "conda").exists()


# --- locks


def lock(place: Place, project: Path, *arguments: str, **environ: str) -> str:
    return place.start("lock", project, *arguments, **environ).finish()


def test_locked_environment_stays_when_newer_packages_come(place: Place, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    source = conda_channel.make(directory, [python(1), module("alpha", "1.0")])
    project = declare(place.project(), source, "python", "alpha", command=says("alpha"))
    assert "+ alpha 1.0" in lock(place, project)
    content = json.loads((project / "conda.lock").read_text())
    (packages,) = content["platforms"].values()
    assert {item["name"] for item in packages} == {"python", "alpha"}
    assert all(item["hashes"][1].startswith("sha256:") for item in packages)
    conda_channel.make(directory, [python(1), module("alpha", "1.0"), module("alpha", "2.0")])
    assert place.environment(project)["lock"] == "locked"
    assert place.run(project, "--locked")[0].strip() == "1.0"
    assert "alpha 1.0 -> 2.0" in lock(place, project, "--update")
    assert place.run(project)[0].strip() == "2.0"


def test_lock_keeps_what_still_fits(place: Place, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    packages = [python(1), module("alpha", "1.0"), Package("data", files={"share/d": "d"})]
    source = conda_channel.make(directory, packages)
    project = declare(place.project(), source, "alpha", command=says("alpha"))
    lock(place, project)
    conda_channel.make(directory, [*packages, module("alpha", "2.0")])
    declare(project, source, "alpha", "data", command=says("alpha"))
    changed = lock(place, project)
    assert "+ data 1.0" in changed
    assert "alpha" not in changed


def test_stale_lock_is_refused_and_says_what_changed(place: Place, channel: Path) -> None:
    project = declare(place.project(), channel.as_uri(), "python", "alpha=1.0")
    assert "not locked" in failure(place, project, "--locked")
    lock(place, project)
    declare(project, channel.as_uri(), "python", "alpha=1.0", "data")
    said = failure(place, project, "--locked")
    assert "`data` was added" in said
    assert place.environment(project)["lock"] == "stale"


def test_locked_package_with_another_content_is_refused(
    place: Place, channel: Path, serve: Serve
) -> None:
    project = declare(place.project(), serve(channel), "data")
    lock(place, project)
    conda_channel.make(channel, [Package("data", noarch="generic", files={"share/d": "new"})])
    assert "hash mismatch" in failure(place, project, "--locked")


def test_locked_environment_has_activation_and_noarch_packages(place: Place, channel: Path) -> None:
    command = "python -c \"import pure, os; print(pure.VERSION, os.environ['TOOL_KIND'])\""
    project = declare(place.project(), channel.as_uri(), "pure", "tool", command=command)
    lock(place, project)
    assert place.run(project)[0].strip() == "1.0 hammer"


def test_lock_has_no_secrets_and_serves_with_them(
    place: Place, channel: Path, serve: Serve
) -> None:
    source = serve(channel, secret="bob:pw").replace("//", "//bob:${CHANNEL_PASSWORD}@")
    project = declare(place.project(), source, "data")
    lock(place, project, CHANNEL_PASSWORD="pw")
    assert "pw@" not in (project / "conda.lock").read_text()
    place.run(project, "--locked", CHANNEL_PASSWORD="pw")


def test_lock_beside_a_relative_channel_may_be_moved(place: Place) -> None:
    project = place.project()
    conda_channel.make(project / "channel")
    declare(project, "./channel", "python", "pure")
    lock(place, project)
    assert str(project) not in (project / "conda.lock").read_text()
    place.run(project, "--locked")
    moved = place.directory / "moved"
    shutil.copytree(project, moved)
    assert "building" not in place.run(moved, "--locked")[1]


def test_pip_section_is_locked_too(place: Place, channel: Path) -> None:
    project = place.project()
    write_wheel(project / "w", "delta", "3.0")
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project / "w")}
    declare(project, channel.as_uri(), "python", "pip: [delta]", command=says("delta"))
    assert "+ delta 3.0" in lock(place, project, **links)
    write_wheel(project / "w", "delta", "4.0")
    assert place.run(project, "--locked", **links)[0].strip() == "3.0"


def test_lock_for_another_platform(place: Place, channel: Path) -> None:
    other = "darwin-arm64" if PLATFORM != "osx-arm64" else "linux-x86_64"
    subdir = "osx-arm64" if PLATFORM != "osx-arm64" else "linux-64"
    shutil.copytree(channel / PLATFORM, channel / subdir)
    project = declare(place.project(), channel.as_uri(), "alpha")
    assert f"{other}: " in lock(place, project, "--platform", other)
    assert "no packages for" in failure(place, project, "--locked")


def test_lock_that_cannot_be_solved_has_its_place(place: Place, channel: Path) -> None:
    project = declare(place.project(), channel.as_uri(), "nonesuch")
    run = place.start("lock", project)
    assert run.fail() == 1
    assert "conda.yaml:5:5" in run.err
    assert not (project / "conda.lock").exists()


# --- conda itself


def fake_conda(directory: Path, name: str = "conda", code: int = 0) -> Path:
    """Write a program that makes an empty environment and notes what it was called with."""
    path = directory / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\necho "$@" > {directory}/called\n[ {code} = 0 ] || echo it is broken >&2\n'
        f'[ {code} = 0 ] && mkdir -p "$4/bin" "$4/conda-meta"\nexit {code}\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("variables", "program"),
    [
        (("MLFLOW_CONDA_HOME",), "conda"),
        (("CONDA_EXE",), "conda"),
        (("MLFLOW_CONDA_HOME", "MLFLOW_CONDA_CREATE_ENV_CMD"), "mamba"),
        (("CONDA_EXE", "MLFLOW_CONDA_CREATE_ENV_CMD"), "mamba"),
        (("PATH", "MLFLOW_CONDA_CREATE_ENV_CMD"), "mamba"),
    ],
)
def test_conda_that_mlflows_variables_name_is_used(
    variables: tuple[str, ...], program: str, place: Place, channel: Path
) -> None:
    home = place.directory / "conda-home"
    fake_conda(home, program)
    values = {
        "MLFLOW_CONDA_HOME": str(home),
        "CONDA_EXE": str(home / "bin" / "conda"),
        "MLFLOW_CONDA_CREATE_ENV_CMD": "mamba",
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    environ = {name: values[name] for name in variables}
    project = declare(place.project(), channel.as_uri(), "python", command="echo $CONDA_PREFIX")
    prefix = place.run(project, **environ)[0].strip()
    called = (home / "called").read_text().strip()
    assert called == f"env create -p {prefix} --file {project / 'conda.yaml'}"


def test_conda_that_is_not_there(place: Place, channel: Path) -> None:
    project = declare(place.project(), channel.as_uri(), "python")
    said = failure(place, project, MLFLOW_CONDA_HOME="/nowhere")
    assert "there is no program `/nowhere/bin/conda`, which MLFLOW_CONDA_HOME asks for" in said


def test_conda_that_fails(place: Place, channel: Path) -> None:
    home = place.directory / "conda-home"
    fake_conda(home, code=1)
    project = declare(place.project(), channel.as_uri(), "python")
    said = failure(place, project, MLFLOW_CONDA_HOME=str(home))
    assert "conda says:" in said
    assert "it is broken" in said


# --- without a build


def test_missing_rattler_has_three_remedies(
    project: Project, buildrun: Buildrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)
    conda = {name: None for name in os.environ if "CONDA" in name}
    directory = project("conda_env: conda.yaml\n", conda__yaml="dependencies: [python]\n")
    outcome = buildrun("build", directory, environ=conda)
    assert outcome.code == 1
    for remedy in ("buildrun[conda]", "MLFLOW_CONDA_HOME", "--env-manager virtualenv"):
        assert remedy in outcome.err


def resolved(names: list[str], directory: Path, condarc: str = "", **environ: str) -> list[str]:
    (directory / ".condarc").write_text(condarc)
    reader = DependencyTracker({"HOME": str(directory), **environ})
    settings = channels.read(reader)
    file = str(directory / "conda.yaml")
    return [item.address for item in channels.resolve(names, file, settings, reader)]


ANACONDA = ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"]


@pytest.mark.parametrize(
    ("names", "condarc", "addresses"),
    [
        (["conda-forge"], "", ["https://conda.anaconda.org/conda-forge"]),
        ([], "", ANACONDA),
        (["defaults", "x"], "", [*ANACONDA, "https://conda.anaconda.org/x"]),
        (["x/label/dev"], "", ["https://conda.anaconda.org/x/label/dev"]),
        (["https://a.b/c/linux-64"], "", ["https://a.b/c"]),
        (["/abs/a b"], "", ["file:///abs/a%20b"]),
        (["pkgs/main"], "", ANACONDA[:1]),
        (["x"], "channel_alias: https://a.b/", ["https://a.b/x"]),
        (["x"], "channels: [y, x]", ["https://conda.anaconda.org/x", "https://conda.anaconda.org/y"]),
        (["x", "nodefaults"], "channels: [y]", ["https://conda.anaconda.org/x"]),
        (["defaults"], "default_channels: [https://a.b/m]", ["https://a.b/m"]),
        (["x/y"], "custom_channels: {x: https://a.b}", ["https://a.b/x/y"]),
        (["both"], "custom_multichannels: {both: [https://a.b/1, https://a.b/2]}",
         ["https://a.b/1", "https://a.b/2"]),
    ],
)  # fmt: skip
def test_channel_names_stand_for(
    names: list[str], condarc: str, addresses: list[str], tmp_path: Path
) -> None:
    assert resolved(names, tmp_path, condarc) == addresses
    assert resolved(["x"], tmp_path, CONDA_CHANNEL_ALIAS="https://a.b") == ["https://a.b/x"]


def test_local_channel_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="conda-build"):
        resolved(["local"], tmp_path)


def test_label_of_a_channel_has_no_secrets(tmp_path: Path) -> None:
    reader = DependencyTracker({"HOME": str(tmp_path), "TOKEN": "tk-1"})
    (found,) = channels.expand(
        "https://me:pw@a.b/t/$TOKEN/c", str(tmp_path / "f"), channels.read(reader), reader
    )
    assert found.address == "https://me:pw@a.b/t/tk-1/c"
    assert found.label == "https://a.b/c"


def test_priority_is_condas(tmp_path: Path) -> None:
    for text, priority in (("", "flexible"), ("strict", "strict"), ("false", "disabled")):
        (tmp_path / ".condarc").write_text(f"channel_priority: {text}\n")
        assert channels.read(DependencyTracker({"HOME": str(tmp_path)})).priority == priority


def test_unreadable_condarc_is_named(tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text("channels: [")
    with pytest.raises(EnvironmentFailure, match="conda's settings") as caught:
        channels.read(DependencyTracker({"HOME": str(tmp_path)}))
    assert caught.value.place == str(tmp_path / ".condarc")


def test_virtual_packages_are_those_of_the_machine_unless_overridden() -> None:
    found = virtual_packages.detect(DependencyTracker({}))
    (kernel,) = [name for name in found if name.startswith(("__linux=", "__osx="))]
    assert kernel.split("=")[1].count(".") <= 1  # no patch of the kernel
    overridden = {"CONDA_OVERRIDE_CUDA": "12.4", "CONDA_OVERRIDE_GLIBC": ""}
    found = virtual_packages.detect(DependencyTracker(overridden))
    assert "__cuda=12.4=0" in found
    assert not [name for name in found if name.startswith("__glibc")]
    assert virtual_packages.platform(DependencyTracker({})) == PLATFORM
    assert virtual_packages.platform(DependencyTracker({"CONDA_SUBDIR": "osx-64"})) == "osx-64"


def test_locate_finds_list_items_only(tmp_path: Path) -> None:
    path = tmp_path / "conda.yaml"
    path.write_text('name: numpy\ndependencies:\n  - "numpy"  # yes\n')
    assert locate(str(path), "numpy") == f"{path}:3:6"
    assert locate(str(path), "scipy") == str(path)


def test_damage_is_found_and_named(place: Place, channel: Path) -> None:
    project = declare(place.project(), channel.as_uri(), "python", "data", "pure")
    place.run(project)
    place.start("cache", "verify").finish()
    (place.prefix(project) / "share" / "data.txt").unlink()
    process = place.start("cache", "verify").process
    assert "such as `share/data.txt`" in process.communicate(timeout=LIMIT)[0]
    assert process.returncode == 1
