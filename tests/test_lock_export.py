"""Locks in forms of others: valid by their own tools, installable, and the same each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import conda_channel
import pytest
from conda_channel import module, python
from conftest import Project
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from environment_harness import Serve, served_files  # noqa: F401
from packageurl import PackageURL
from packaging.pylock import Pylock
from wheels import Call, only_wheels, some_wheels, write_source, write_wheel  # noqa: F401

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = f"{sys.platform}-{os.uname().machine}"
MLPROJECT = "name: shop\npython_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n"


@pytest.fixture
def directory(project: Project, offline: Call) -> Path:
    """Return a project that has locked `alpha` 2.0, and `beta` which that needs."""
    place = project(MLPROJECT, python_env__yaml="dependencies: [alpha]\n")
    assert offline("lock", place).code == 0
    return place


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Return a virtual environment without packages."""
    place = tmp_path / "fresh"
    _run("uv", "venv", "--quiet", "--python", sys.executable, place)
    return place


def _run(*words: str | Path) -> str:
    tool = Path(sys.executable).parent / words[0]
    done = subprocess.run(
        (tool, *words[1:]), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _versions(environment: Path) -> dict[str, str]:
    listed = _run("uv", "pip", "list", "--python", environment, "--format", "json")
    return {item["name"]: item["version"] for item in json.loads(listed)}


def _pylock(text: str) -> Pylock:
    return Pylock.from_dict(tomllib.loads(text))


def _components(text: str) -> dict[str, Any]:
    """Return the components of a valid document by name."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    found = json.loads(text)["components"]
    for each in found:
        if "purl" in each:
            assert PackageURL.from_string(each["purl"]).to_string() == each["purl"]
    return {each["name"]: each for each in found}


# --- requirements


def test_requirements_install_with_required_hashes(
    directory: Path,
    offline: Call,
    fresh: Path,
    links: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "requirements.txt"
    assert offline("lock", directory, "--export=requirements", "--output", file).out == ""
    _run(
        "pip", "--python", fresh, "install", "--require-hashes", "--no-index",
        "--find-links", links, "-r", file,
    )  # fmt: skip
    assert _versions(fresh) == {"alpha": "2.0", "beta": "1.5"}


def test_requirements_with_another_hash_are_refused(
    directory: Path,
    offline: Call,
    fresh: Path,
    links: Path,
    tmp_path: Path,
) -> None:
    write_wheel(links, "beta", "1.5", files={"beta.py": "VERSION = 'changed'\n"})
    file = tmp_path / "requirements.txt"
    offline("lock", directory, "--export=requirements", "--output", file)
    with pytest.raises(AssertionError, match="DO NOT MATCH"):
        _run("pip", "--python", fresh, "install", "--no-index", "--find-links", links, "-r", file)


def test_package_of_both_stages_is_exported_as_it_is_in_the_end(
    project: Project, offline: Call
) -> None:
    text = "build_dependencies: [alpha==1.0]\ndependencies: [alpha==2.0]\n"
    place = project(MLPROJECT, python_env__yaml=text)
    offline("lock", place)
    lines = offline("lock", place, "--export=requirements").printed()
    assert re.findall(r"^\w+==\S+", lines, re.MULTILINE) == ["alpha==2.0", "beta==1.5"]


def test_places_of_packages_are_exported_without_credentials(
    project: Project, offline: Call
) -> None:
    options = ("--find-links ./links", "--extra-index-url http://bob:pw@localhost:1/simple")
    lines = "".join(f"- {line}\n" for line in (*options, "--no-index", "alpha"))
    place = project(MLPROJECT, python_env__yaml=f"dependencies:\n{lines}")
    write_wheel(place / "links", "alpha", "3.0")
    assert offline("lock", place).code == 0
    exported = offline("lock", place, "--export=requirements").printed()
    assert exported.splitlines()[1:4] == [
        "--find-links ./links", "--extra-index-url http://localhost:1/simple", "--no-index",
    ]  # fmt: skip
    for form in ("pylock", "cyclonedx"):
        exported += _export(offline, place, form)
    assert "bob" not in exported


@pytest.mark.parametrize("name", ["python_env.lock", "python_env.yaml", "MLproject"])
def test_files_of_the_project_are_not_replaced(directory: Path, offline: Call, name: str) -> None:
    before = (directory / name).read_text()
    outcome = offline("lock", directory, "--export=pylock", "--output", directory / name)
    outcome.refused("the project's own", "--output", code=2)
    assert (directory / name).read_text() == before


def test_credentials_in_queries_are_exported_in_no_form(
    project: Project, offline: Call, serve: Serve, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "served", "alpha", "3.0")
    server = serve(wheel.parent)
    lines = (f"--find-links {server}/?access_token=tok777", "beta")
    direct = f"alpha @ {server}/{wheel.name}?authToken=tok888"
    listed = "".join(f"- {line}\n" for line in (*lines, direct))
    place = project(MLPROJECT, python_env__yaml=f"dependencies:\n{listed}")
    assert offline("lock", place, PIP_NO_INDEX=None, UV_NO_INDEX="1").code == 0
    exported = _export(offline, place, "requirements")
    kept = [line for line in exported.splitlines() if not line.startswith(("#", " "))]
    assert [line.split()[0] for line in kept] == ["beta==1.5"]
    for form in ("pylock", "cyclonedx"):
        exported += _export(offline, place, form)
    assert "alpha" in exported
    assert "tok" not in re.sub("(?i)(access_|auth)token", "", exported)


# --- pylock.toml


def test_pylock_is_valid_and_uv_installs_it(
    directory: Path, offline: Call, fresh: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pylock.toml"
    offline("lock", directory, "--export=pylock", "--output", file).printed()
    assert [package.name for package in _pylock(file.read_text()).packages] == ["alpha", "beta"]
    _run("uv", "pip", "sync", "--preview", "--python", fresh, file)
    assert _versions(fresh) == {"alpha": "2.0", "beta": "1.5"}


def test_pylock_names_only_files_with_a_locked_hash(
    directory: Path,
    offline: Call,
    links: Path,
) -> None:
    write_wheel(links, "beta", "1.5", files={"beta.py": "VERSION = 'changed'\n"})
    outcome = offline("lock", directory, "--export=pylock")
    outcome.refused("no file of `beta==1.5` with a hash of the lock", "buildrun lock --update")
    assert outcome.out == ""


def test_pylock_holds_several_platforms_by_markers(project: Project, offline: Call) -> None:
    text = "dependencies: [alpha==1.0, \"beta; sys_platform == 'darwin'\"]\n"
    place = project(MLPROJECT, python_env__yaml=text)
    offline("lock", place, "--platform=linux-x86_64", "--platform=darwin-arm64")
    mac = "sys_platform == 'darwin' and platform_machine == 'arm64'"
    found = _pylock(offline("lock", place, "--export=pylock").printed())
    markers = {
        each.name: each.marker and str(each.marker).replace('"', "'") for each in found.packages
    }
    assert markers == {"alpha": None, "beta": mac}
    assert len(found.environments or ()) == 2
    alone = _pylock(offline("lock", place, "--export=pylock", "--platform=linux-x86_64").printed())
    assert [each.name for each in alone.packages] == ["alpha"]


def test_local_packages_and_repositories_are_told(
    project: Project, offline: Call, tmp_path: Path
) -> None:
    place = project(MLPROJECT)
    write_source(place / "lib")
    repository, git = tmp_path / "repository", ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    write_source(repository)
    (repository / "pyproject.toml").write_text(
        (repository / "pyproject.toml").read_text().replace("name = 'alpha'", "name = 'gamma'")
    )
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run((*git, "-C", repository, *words), check=True)
    (place / "python_env.yaml").write_text(
        f"dependencies: [./lib, 'gamma @ git+file://{repository}', beta]\n"
    )
    assert offline("lock", place).code == 0
    asked = offline("lock", place, "--export=requirements")
    assert re.findall(r"^\w+==\S+", asked.out, re.MULTILINE) == ["beta==1.5"]
    assert "`./lib` is from a directory without hashes" in asked.err
    assert "is from a repository" in asked.err
    packages = _pylock(_export(offline, place, "pylock")).packages
    found = {str(each.name): each for each in packages}
    assert found["alpha"].directory is not None
    assert found["alpha"].directory.path == "lib"
    assert found["gamma"].vcs is not None
    assert re.fullmatch("[0-9a-f]{40}", found["gamma"].vcs.commit_id)
    components = _components(_export(offline, place, "cyclonedx"))
    assert "purl" not in components["./lib"]
    assert "vcs_url=git" in components["gamma"]["purl"]


def _export(offline: Call, place: Path, form: str) -> str:
    return offline("lock", place, f"--export={form}").printed()


# --- CycloneDX


def test_cyclonedx_is_valid_and_names_each_package(directory: Path, offline: Call) -> None:
    found = _components(_export(offline, directory, "cyclonedx"))
    assert {each["purl"] for each in found.values()} == {"pkg:pypi/alpha@2.0", "pkg:pypi/beta@1.5"}
    assert [each["alg"] for each in found["alpha"]["hashes"]] == ["SHA-256"]


@pytest.mark.parametrize("form", ["cyclonedx", "pylock", "requirements"])
def test_same_lock_gives_the_same_bytes(directory: Path, offline: Call, form: str) -> None:
    first = _export(offline, directory, form)
    assert _export(offline, directory, form) == first


def test_time_is_told_only_where_it_is_given(directory: Path, offline: Call) -> None:
    words = ("lock", directory, "--export=cyclonedx")
    assert "timestamp" not in offline(*words, SOURCE_DATE_EPOCH=None).data["metadata"]
    dated = offline(*words, SOURCE_DATE_EPOCH="86400").printed()
    assert _components(dated)
    assert json.loads(dated)["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    offline(*words, SOURCE_DATE_EPOCH="noon").refused("SOURCE_DATE_EPOCH: `noon`", code=2)


def test_conda_locks_export_what_each_form_can_hold(
    project: Project, offline: Call, tmp_path: Path
) -> None:
    pytest.importorskip("rattler")
    channel = conda_channel.make(tmp_path / "channel", [python(1), module("tool", "1.0")])
    place = project("conda_env: conda.yaml\nentry_points: {main: {command: 'true'}}\n")
    declared = f"channels: ['{channel}']\ndependencies: [python, tool%s]\n"
    (place / "conda.yaml").write_text(declared % "")
    assert offline("lock", place).code == 0
    offline("lock", place, "--export=requirements").refused("2 packages are conda's", "cyclonedx")
    tool = _components(_export(offline, place, "cyclonedx"))["tool"]
    assert tool["purl"].startswith("pkg:conda/tool@1.0?build=")
    assert f"subdir={conda_channel.PLATFORM}" in tool["purl"]
    assert {each["alg"] for each in tool["hashes"]} == {"MD5", "SHA-256"}
    (place / "conda.yaml").write_text(declared % ", pip: [beta]")
    assert offline("lock", place).code == 0
    for form in ("requirements", "pylock"):
        outcome = offline("lock", place, f"--export={form}")
        assert "beta" in outcome.printed()
        assert "tool" not in outcome.out
        assert "2 packages are conda's and left out" in outcome.err
    (place / "conda.yaml").write_text(f"channels: ['{channel}']\ndependencies: []\n")
    assert offline("lock", place).code == 0
    offline("lock", place, "--export=pylock").refused("no Python", "list `python`")


# --- what is refused


@pytest.mark.parametrize("form", ["cyclonedx", "pylock", "requirements"])
def test_missing_and_stale_locks_are_refused(directory: Path, offline: Call, form: str) -> None:
    (directory / "python_env.yaml").write_text("dependencies: []\n")
    offline("lock", directory, f"--export={form}").refused("`alpha` was removed", "buildrun lock")
    (directory / "python_env.lock").unlink()
    offline("lock", directory, f"--export={form}").refused("there is no lock", "buildrun lock")
    assert not (directory / "python_env.lock").exists()


def test_platform_that_the_lock_lacks_is_refused(directory: Path, offline: Call) -> None:
    other = "darwin-arm64" if HERE != "darwin-arm64" else "linux-x86_64"
    words = ("lock", directory, "--export=requirements", f"--platform={other}")
    offline(*words).refused(f"it has no packages for {other}")
    lock = directory / "python_env.lock"
    lock.write_text(lock.read_text().replace(f'"{HERE}"', f'"{other}"'))
    assert "alpha==2.0" in offline(*words).printed()
    offline("lock", directory, "--export=pylock", "--platform=amiga").refused("amiga", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--output=x",),
        ("--export=pylock", "--check"),
        ("--export=pylock", "--update"),
        ("--export=pylock", "--all"),
        ("--export=pylock", "--of-projects"),
        ("--export=requirements", "--platform=darwin-arm64", "--platform=linux-x86_64"),
        ("--export=pylock", "--output=none/x"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    directory: Path, offline: Call, words: tuple[str, ...]
) -> None:
    offline("lock", directory, *words).refused("error", code=2)
