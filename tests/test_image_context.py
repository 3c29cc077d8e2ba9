"""What goes into a project's image, and the archive it goes in."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from buildrun.errors import ProjectError
from buildrun.project.model import EntryPoint, ProjectSpec, PythonEnv
from buildrun.workspace import archive, image_context
from buildrun.workspace.archive import TIME
from buildrun.workspace.fingerprints import Fingerprints

# Patterns, a path, and whether Docker leaves it out: from the tests of
# github.com/moby/patternmatcher and from the documentation of `.dockerignore`.
CASES = [
    ("**", "file", True),
    ("**", "dir/file", True),
    ("**/", "dir/file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/dir2/file", True),
    ("**/dir", "dir/file", True),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/*", "dir/dir2/dir2/file", True),
    ("**/dir2/**", "dir/dir2/dir2/file", True),
    ("**file", "file", True),
    ("**file", "dir/file", True),
    ("**/file", "dir/dir/file", True),
    ("**/file*", "dir/dir/file.txt", True),
    ("**/file*txt", "dir/dir/file.txt", True),
    ("**/file*.txt", "dir/dir/file.txt", True),
    ("**/file*.txt*", "dir/dir/file.txt", True),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("**/**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt", "a/file.txt", True),
    ("a/*.txt**", "a/file.txt", True),
    ("a[b-d]e", "ae", False),
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcdef", False),
    ("abc.def", "abc.def", True),
    ("abc?def", "abcZdef", True),
    ("abc?def", "abcdef", False),
    ("a\\*b", "a*b", True),
    ("a\\*b", "axb", False),
    ("**/foo/bar", "foo/bar", True),
    ("**/foo/bar", "dir/foo/bar", True),
    ("abc/**", "abc", False),
    ("abc/**", "abc/def", True),
    ("**/.foo", "bar.foo", False),
    ("**/.foo", ".foo", True),
    ("**xfoo", "foo", False),
    ("a(b)c/def", "a(b)c/def", True),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
     "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", True),
    ("docs\n!docs/README.md", "docs/README.md", False),
    ("docs/\n!docs/README.md", "docs/other", True),
    ("!docs/README.md\ndocs", "docs/README.md", True),
    ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
    ("*.md\n!README*.md\nREADME-secret.md", "README-open.md", False),
    ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
    ("*\n!src", "src/a/b.py", False),
    ("*/temp*", "somedir/temporary.txt", True),
    ("*/temp*", "temporary.txt", False),
    ("*/*/temp*", "somedir/subdir/temporary.txt", True),
    ("temp?", "tempa", True),
    ("# temp", "# temp", False),
    (" # temp", "# temp", True),
    ("\ufeffbom", "bom", True),
    ("  blanks \t", "blanks", True),
    ("crlf\r\nnext", "crlf", True),
    ("/rooted", "rooted", True),
    ("./here/../there/", "there/x", True),
    ("//double", "double", True),
    ("! spaced\nspaced", "spaced", True),
    ("spaced\n! spaced", "spaced", False),
    ("/", "anything", False),
    (".", "anything", False),
    ("../out", "out", False),
    ("one", "onetwo", False),
    ("a[[]b", "a[b", True),
    ("a[]-]b", "a-b", None),
    ("[", "x", None),
    ("a[b-]", "x", None),
    ("a[c-b]", "x", None),
    ("a[\\[^b]", "a\\", False),
    ("[ab]\\/c", "a/c", True),
    ("trailing\\", "x", None),
    ("!", "x", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "expected"), CASES)
def test_dockerignore_means_what_docker_says(text: str, path: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ProjectError, match="malformed") as caught:
            image_context.parse(text.encode())
        assert caught.value.place == ".dockerignore:1"
    else:
        assert image_context.parse(text.encode()).leaves_out(path) is expected


def project_spec(root: Path, *outputs: str) -> ProjectSpec:
    point = EntryPoint("main", (), "true", outputs=outputs)
    return ProjectSpec("made", str(root), None, (point,), PythonEnv())


def fingerprints(root: Path, index: Path | None = None) -> Fingerprints:
    return Fingerprints(str(root), None if index is None else str(index))


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def content(root: Path, *outputs: str) -> image_context.Content:
    return image_context.content(str(root), outputs, fingerprints(root))


def held(root: Path, *outputs: str) -> list[str]:
    return [entry.path for entry in content(root, *outputs).taken.entries()]


def git(root: Path, *words: str) -> None:
    subprocess.run(("git", *words), cwd=root, check=True, capture_output=True, timeout=60)


def test_image_holds_what_git_would_not_ignore_and_mlproject(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    make(tmp_path, "MLproject", "a.py", "sub/b.py", "out/model", "data/big", "kept.csv", "x.csv")
    (tmp_path / ".gitignore").write_text("data/\n*.csv\n")
    git(tmp_path, "add", "-f", "kept.csv")
    assert held(tmp_path, "out/") == [".gitignore", "MLproject", "a.py", "kept.csv", "sub/b.py"]


def test_secrets_stores_and_environments_stay_out(tmp_path: Path) -> None:
    make(
        tmp_path, ".env", ".env.local", ".env.example", "sub/key.pem", "id_rsa", "id_ed25519.pub",
        ".netrc", ".pypirc", ".aws/credentials", ".ssh/config", ".docker/config.json",
        ".docker/other", "mlruns/0/meta.yaml", "mlflow.db", "venv/pyvenv.cfg", "venv/bin/python",
        "conda/conda-meta/history", ".git/config", "__pycache__/a.pyc", "a.py",
    )  # fmt: skip
    assert held(tmp_path) == [".docker/other", ".env.example", "a.py"]
    assert content(tmp_path).secrets == (
        ".aws", ".docker/config.json", ".env", ".env.local", ".netrc", ".pypirc", ".ssh",
        "id_ed25519.pub", "id_rsa", "sub/key.pem",
    )  # fmt: skip


def test_exceptions_bring_back_what_they_name(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    make(tmp_path, "src/a.py", "src/.env", "src/data/b", "data/x/keep.csv", "data/drop", "ca.pem")
    make(tmp_path, "models/m.bin", "models/n.txt", "mlruns/x")
    (tmp_path / ".gitignore").write_text("data/\nmodels/\n")
    rules = tmp_path / ".dockerignore"
    rules.write_text("*\n!src\n")
    assert held(tmp_path) == ["src/a.py"]
    rules.write_text("*\n!src/**\n!**/*.csv\n!mlruns\n")
    assert held(tmp_path) == ["src/a.py"]
    rules.write_text("!data/x/*.csv\n!ca.pem\n!models\n")
    assert held(tmp_path) == [
        ".dockerignore", ".gitignore", "ca.pem", "data/x/keep.csv", "models/m.bin", "models/n.txt",
        "src/a.py",
    ]  # fmt: skip


def test_excluded_directories_are_entered_for_exceptions_alone(tmp_path: Path) -> None:
    make(tmp_path, "docs/a/README.md", "docs/a/b", "docs/c", "MLproject")
    (tmp_path / ".dockerignore").write_text("docs\n!**/README.md\nMLproject\n")
    assert held(tmp_path) == [".dockerignore", "docs/a/README.md"]


OPENED = """
import json, sys
touched = []
def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        name = arguments[0]
        touched.append(name.decode() if isinstance(name, bytes) else str(name))
sys.addaudithook(note)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_image_context import held
held(Path(sys.argv[1]))
print(json.dumps([name for name in touched if name.startswith(sys.argv[1])]))
"""


def test_nothing_that_is_left_out_is_opened(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    make(tmp_path, "a.py", "data/big/file", "docs/page", ".env", "x.log", ".venv/pyvenv.cfg")
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".dockerignore").write_text("docs\n*.log\n")
    done = subprocess.run(
        (sys.executable, "-c", OPENED, tmp_path, Path(__file__).parent),
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    touched = {os.path.relpath(name, tmp_path) for name in json.loads(done.stdout)}
    assert "a.py" in touched
    assert not {"data", "data/big", "data/big/file", "docs", "docs/page", ".env", "x.log"} & touched


def test_unreadable_rules_are_told(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").mkdir()
    with pytest.raises(ProjectError, match="not a file"):
        held(tmp_path)


def streamed(root: Path) -> bytes:
    made = archive.of_files(str(root), content(root).taken, "/mlflow/projects/code")
    data = b"".join(made.chunks())
    assert len(data) == made.size
    return data


def test_layer_is_what_tar_reads(tmp_path: Path) -> None:
    long = "d" * 120 + "/" + "e" * 130
    make(tmp_path, "a.py", "we\nird", long, "sub/run.sh")
    (tmp_path / os.fsdecode(b"latin\xff")).write_text("x")
    (tmp_path / "sub/run.sh").chmod(0o700)
    (tmp_path / "link").symlink_to("t" * 200)
    with tarfile.open(fileobj=io.BytesIO(streamed(tmp_path)), errors="surrogateescape") as archive:
        members = {member.name: member for member in archive}
        names = [member.name for member in archive]
        read = archive.extractfile(f"mlflow/projects/code/{long}")
        assert read is not None
        assert read.read().decode() == long
    top = "mlflow/projects/code"
    assert names[:3] == ["mlflow", "mlflow/projects", top]
    assert set(names[3:]) == {
        f"{top}/{name}"
        for name in (
            "a.py", "we\nird", "latin\udcff", "link", "sub", "sub/run.sh", "d" * 120, long,
        )
    }  # fmt: skip
    modes = {name: members[name].mode for name in members if not members[name].issym()}
    directories = ("mlflow", "mlflow/projects", top, f"{top}/sub", f"{top}/{'d' * 120}")
    assert {modes.pop(name) for name in (*directories, f"{top}/sub/run.sh")} == {0o755}
    assert set(modes.values()) == {0o644}
    assert members[f"{top}/link"].linkname == "t" * 200
    assert {(member.mtime, member.uid, member.gid) for member in members.values()} == {(TIME, 0, 0)}


def test_layer_for_any_user_is_writable_for_its_group(tmp_path: Path) -> None:
    make(tmp_path, "a.py", "sub/run.sh")
    (tmp_path / "sub/run.sh").chmod(0o700)
    made = archive.of_files(str(tmp_path), content(tmp_path).taken, "/code/here", any_user=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.chunks()))) as tar:
        modes = {member.name: member.mode for member in tar}
    assert modes == {
        "code": 0o755,
        "code/here": 0o775,
        "code/here/a.py": 0o664,
        "code/here/sub": 0o775,
        "code/here/sub/run.sh": 0o775,
    }


def test_layer_is_the_same_wherever_and_whenever(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "elsewhere"
    make(one, "b", "a/c", "a-b")
    make(other, "a-b", "a/c", "b")
    os.utime(other / "b", (1, 1))
    (other / "b").chmod(0o600)
    assert streamed(one) == streamed(other)


@given(
    st.binary(min_size=1, max_size=300).filter(
        lambda name: b"\0" not in name and b"/" not in (name[:1], name[-1:])
    ),
    st.integers(0, 1 << 40),
)
@settings(max_examples=60, deadline=None)
def test_headers_carry_any_name_and_size(name: bytes, size: int) -> None:
    data = archive.header(name, size=size)
    assert len(data) % 512 == 0
    member = tarfile.TarFile(
        fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape"
    ).next()
    assert member is not None
    assert os.fsencode(member.name) == name
    assert member.size == size


@pytest.mark.parametrize("how", ["edited", "shorter", "removed", "link"])
def test_file_that_changes_meanwhile_stops_the_image(tmp_path: Path, how: str) -> None:
    make(tmp_path, "a", "changing", "z")
    path = tmp_path / "changing"
    chunks = archive.of_files(str(tmp_path), content(tmp_path).taken, "/code").chunks()
    if how == "edited":
        path.write_text("CHANGING")
    elif how == "shorter":
        path.write_text("c")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("a")
    with pytest.raises(ProjectError, match="`changing` changed while the image was made"):
        list(chunks)


MEMORY = """
import hashlib, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_image_context import content
from buildrun.workspace import archive
root = Path(sys.argv[1])
taken = content(root).taken
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made, size = hashlib.sha256(), 0
for chunk in archive.of_files(str(root), taken, "/code").chunks():
    made.update(chunk)
    size += len(chunk)
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_files_take_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(300 << 20)
    done = subprocess.run(
        (sys.executable, "-c", MEMORY, tmp_path, Path(__file__).parent),
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    size, grown = map(int, done.stdout.split())
    assert size > 300 << 20
    assert grown < 32 << 10  # KiB


def test_fingerprints_of_an_image_are_remembered(tmp_path: Path) -> None:
    root, index = tmp_path / "project", tmp_path / "index"
    make(root, "a")
    os.utime(root / "a", (1, 1))
    prints = fingerprints(root, index)
    first = image_context.content(str(root), (), prints).taken
    assert first.digest.startswith("blake3:")
    (entry,) = first.entries()
    assert entry.content == f"blake3:{blake3(b'a').hexdigest()}"
    prints.save()
    again = image_context.content(str(root), (), fingerprints(root, index)).taken
    assert again.digest == first.digest
