"""`buildrun init --from dvc.yaml`: the same outputs, and what has no counterpart with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Buildrun

# Writes its arguments into the file that the first one names.
STEP = """\
import pathlib, sys
out = pathlib.Path(sys.argv[1])
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(" ".join(sys.argv[2:]) + "\\n")
"""


@pytest.fixture
def pipeline(tmp_path: Path, buildrun: Buildrun) -> Any:
    """Return a function that takes over a pipeline, and returns how and the MLproject."""

    def take_over(dvc: str, code: int = 0, **files: str) -> Any:
        directory = tmp_path / "pipeline"
        directory.mkdir(exist_ok=True)
        # No environment has to be built for these.
        for name, text in {
            "step__py": STEP,
            "python_env__yaml": "dependencies: []\n",
            **files,
        }.items():
            path = directory / name.replace("__", ".").replace("_DIR_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        (directory / "dvc.yaml").write_text(dvc)
        outcome = buildrun("init", "--from", "pipeline/dvc.yaml")
        assert outcome.code == code, outcome.err
        return outcome, yaml.safe_load((directory / "MLproject").read_text())

    return take_over


def run(buildrun: Buildrun, tmp_path: Path, *arguments: str) -> Any:
    directory = tmp_path / "pipeline"
    outcome = buildrun("--env-manager=local", *arguments, cwd=directory)
    assert outcome.code == 0, outcome.err
    return outcome


WHOLE = """\
vars:
  - more.yaml:extra
  - own: {k: 7}
stages:
  train:
    foreach: ${models}
    do:
      cmd: python step.py models/${item}.txt ${train.alpha} "${train.name}" ${train.flags}
      deps: [step.py, data/all.txt]
      params: [train.alpha]
      outs:
        - models/${item}.txt
  prepare:
    desc: make ${rows} rows
    cmd: python step.py data/all.txt ${rows}
    deps: [step.py]
    outs: [data]
  grid:
    matrix:
      a: [1, 2]
      b: [x, {deep: y}]
    cmd: python step.py grid/${key}.txt ${item.a} ${own.k} ${extra[1]}
    deps: [step.py]
    outs:
      - grid/${key}.txt
  nested:
    wdir: sub
    cmd:
      - python ../step.py one.txt ${train.alpha} | cat
      - echo \\${HOME} {x} > /dev/null && exit 0
      - python ../step.py two.txt
    deps: [../step.py, ../models/small.txt]
    outs: [one.txt, two.txt]
  evaluate:
    cmd: |
      python step.py metrics.json ${train.alpha}
      python step.py plot.csv 1
    deps: [step.py, models/small.txt, models/big.txt, grid/1-b1.txt]
    metrics:
      - metrics.json:
          cache: false
    plots:
      - plot.csv: {x: a, y: b}
"""

PARAMS = """\
rows: 20
models: [small, big]
train:
  alpha: 1e-3
  name: yes
  flags: {deep: true, shallow: false, lr: 0.5, layers: [1, 2], label: a b}
"""


def test_pipeline_makes_what_dvc_makes(buildrun: Buildrun, pipeline: Any, tmp_path: Path) -> None:
    files = {"params__yaml": PARAMS, "more__yaml": "extra: [1, 2.50]\nother: 1\n"}
    outcome, _ = pipeline(WHOLE, **files, sub_DIR_keep="")
    assert outcome.err.count("counts as a whole") == 1
    assert "`train@small`, `train@big`: `params.yaml` counts as a whole" in outcome.err
    buildrun("validate", "--strict", "pipeline").printed()
    run(buildrun, tmp_path, "-j2")
    directory = tmp_path / "pipeline"
    # What `dvc repro` of DVC 3.67 writes.
    told = "0.001 yes --deep --lr 0.5 --layers 1 2 --label a b\n"
    expected = {
        "data/all.txt": "20\n", "models/small.txt": told, "models/big.txt": told,
        "grid/1-x.txt": "1 7 2.5\n", "grid/1-b1.txt": "1 7 2.5\n", "grid/2-x.txt": "2 7 2.5\n",
        "grid/2-b1.txt": "2 7 2.5\n", "sub/one.txt": "0.001\n", "sub/two.txt": "\n",
        "metrics.json": "0.001\n", "plot.csv": "1\n",
    }  # fmt: skip
    for name, text in expected.items():
        assert (directory / name).read_text() == text, name
    assert "10 steps: 1 ran, 9 up to date" in run(buildrun, tmp_path).err
    again = run(buildrun, tmp_path, "-P", "train_alpha=0.5")
    assert "5 ran, 5 up to date" in again.err
    assert (directory / "sub/one.txt").read_text() == "0.5\n"


def test_stages_become_entry_points(pipeline: Any) -> None:
    _, project = pipeline(WHOLE, params__yaml=PARAMS, more__yaml="extra: [1, 2]\n", sub_DIR_keep="")
    entry_points = project["entry_points"]
    assert list(entry_points)[-1] == "main"
    assert entry_points["prepare"] == {
        "description": "make 20 rows",
        "parameters": {"rows": {"type": "float", "default": 20}},
        "inputs": ["step.py"],
        "outputs": ["data"],
        "command": "python step.py data/all.txt {rows}",
    }
    train = entry_points["train@big"]
    assert train["depends_on"] == [{"entry_point": "prepare", "parameters": {"rows": "{rows}"}}]
    assert train["inputs"] == ["step.py", "data/all.txt", "params.yaml"]
    # In quotes, a value stands as it is; so does a text that the shell would take apart.
    assert train["command"] == (
        'python step.py models/big.txt {train_alpha} "yes" --deep --lr {train_flags_lr} '
        "--layers {train_flags_layers_0} {train_flags_layers_1} --label 'a b'"
    )
    assert entry_points["nested"]["command"] == (
        "cd sub || exit\n(\npython ../step.py one.txt {train_alpha} | cat\n) || exit\n"
        "(\necho ${{HOME}} {{x}} > /dev/null && exit 0\n) || exit\n"
        "(\npython ../step.py two.txt\n) || exit"
    )
    assert entry_points["evaluate"]["outputs"] == ["metrics.json", "plot.csv"]
    ends = [item["entry_point"] for item in entry_points["main"]["depends_on"]]
    assert ends == ["grid@1-x", "grid@2-x", "grid@2-b1", "nested", "evaluate"]


def test_stage_that_cannot_be_read_is_left_out_with_its_place(pipeline: Any) -> None:
    dvc = (
        "stages:\n"
        "  good:\n    cmd: echo ${a}\n"
        "  bad:\n    cmd: echo ${a} ${no.such}\n"
        "  worse:\n    cmd: echo ${a b.}\n"
        "  listed:\n    cmd: echo\n    deps:\n      - x/${a.b}\n"
        "  each:\n    foreach: 5\n    do:\n      cmd: echo\n"
        "  empty: {}\n"
        "  above:\n    wdir: ..\n    cmd: echo\n"
        "  pattern:\n    cmd: echo\n    outs: ['*.txt']\n"
        "  away:\n    cmd: echo\n    outs: [/tmp/x]\n"
        "  own:\n    cmd: echo\n    deps: [d/x]\n    outs: [d]\n"
        "  text:\n    cmd: echo\n    deps: x\n"
    )
    outcome, project = pipeline(dvc, code=1, params__yaml="a: 1\n")
    assert list(project["entry_points"]) == ["good", "main"]
    for told in (
        "dvc.yaml:5:20: the stage `bad` is left out: nothing fills `${no.such}`",
        "dvc.yaml:7:15: the stage `worse` is left out: `${a b.}` is no template",
        "dvc.yaml:11:11: the stage `listed` is left out: nothing fills `${a.b}`",
        "dvc.yaml:12:3: the stage `each` is left out: `foreach` is neither",
        "dvc.yaml:16:3: the stage `empty` is left out: there is no `cmd`",
        "the stage `above` is left out: the directory `..` is not below",
        "the stage `pattern` is left out: the output `*.txt` is a pattern",
        "the stage `away` is left out: the output `/tmp/x` is an absolute path",
        "the stage `own` is left out: it both reads and makes `d/x`",
        "the stage `text` is left out: `deps` is no list",
    ):
        assert told in outcome.err


def test_what_has_no_counterpart_is_told_with_its_place(
    buildrun: Buildrun, pipeline: Any, tmp_path: Path
) -> None:
    dvc = (
        "stages:\n"
        "  fetch:\n    cmd: python step.py a.txt\n    always_changed: true\n    outs: [a.txt]\n"
        "  old:\n    cmd: python step.py old.txt\n    frozen: true\n    outs: [old.txt]\n"
        "  use:\n    cmd: python step.py b.txt\n    deps: [a.txt, old.txt]\n    meta: {x: 1}\n"
        "    outs:\n      - b.txt:\n          persist: true\n          remote: there\n"
        "  away:\n    cmd: python step.py c.txt\n    deps: [s3://bucket/x]\n    outs: [c.txt]\n"
        "  alone:\n    cmd: python step.py d.txt\n    outs: [d.txt]\n"
        "metrics: [m.json]\nartifacts: {}\n"
    )
    outcome, project = pipeline(dvc, old__txt="old\n")
    for told in (
        "`fetch`: dvc.yaml:4:5: runs each time, without `outputs`",
        "`old`: dvc.yaml:8:5: frozen: nothing depends on it",
        "`use`: dvc.yaml:13:5: `meta` has no counterpart",
        "`use`: dvc.yaml:15:9: `persist` of `b.txt` has no counterpart",
        "`use`: dvc.yaml:15:9: `remote` of `b.txt` has no counterpart",
        "`use`: it depends on what runs each time, so it does as well",
        "`away`: dvc.yaml:20:12: `s3://bucket/x` is not in the project, so the stage runs each",
        "`old`, `alone`: there are no `deps`: every file of the project counts",
        "dvc.yaml:25:1: `metrics` at the top has no counterpart",
        "dvc.yaml:26:1: `artifacts` at the top has no counterpart",
    ):
        assert told in outcome.err, outcome.err
        text = (tmp_path / "pipeline/MLproject").read_text().replace("\n    #   ", " ")
        assert told.split(": ", maxsplit=1)[1] in text
    assert "outputs" not in project["entry_points"]["use"]
    assert project["entry_points"]["use"]["depends_on"] == ["fetch"]
    buildrun("validate", "--strict", "pipeline").printed()
    run(buildrun, tmp_path)
    assert (tmp_path / "pipeline/old.txt").read_text() == "old\n"
    assert "up to date" not in run(buildrun, tmp_path, "-e", "use").err


def test_value_in_a_path_stands_as_it_is(pipeline: Any) -> None:
    dvc = (
        "stages:\n  a:\n    cmd: python step.py ${out} ${name} ${x}\n    outs:\n      - ${out}\n"
        "  b:\n    vars: [{x: 5}]\n    cmd: python step.py b.txt ${out} ${x} $((${x} + 1))\n"
        "    deps:\n      - ${out}\n    outs: [b.txt]\n"
    )
    _, project = pipeline(dvc, params__yaml="out: o.txt\nname: a b\nx: 1\n")
    assert project["entry_points"]["a"]["command"] == "python step.py o.txt a b {x}"
    # What `vars` of the stage say is no parameter of the project.
    assert project["entry_points"]["b"]["command"] == "python step.py b.txt o.txt 5 $((5 + 1))"


def test_values_are_read_as_yaml_1_2(buildrun: Buildrun, pipeline: Any, tmp_path: Path) -> None:
    params = "v: [yes, 1e-5, 010, 1:30, 0o17, .5, 1., on, ~, True, 0x1F, '1e-5', 1_0]\n"
    fields = " ".join(f"${{v[{number}]}}" for number in range(13))
    pipeline(f"stages:\n  a:\n    cmd: python step.py a.txt {fields}\n", params__yaml=params)
    run(buildrun, tmp_path)
    # As DVC 3.67 writes them.
    written = "yes 1e-05 10 1:30 15 0.5 1.0 on None true 31 1e-5 10\n"
    assert (tmp_path / "pipeline/a.txt").read_text() == written


@pytest.mark.parametrize(
    ("dvc", "facts"),
    [
        ("a: 1\n", ["there are no `stages`"]),
        ("- a\n", ["there are no `stages`"]),
        ("stages: {\n", ["dvc.yaml:2:1"]),
        ("stages: {a: {}}\n", ["no stage can be taken over", "there is no `cmd`"]),
        ("vars: [p.toml]\nstages: {a: {cmd: x}}\n", ["p.toml", "from YAML and JSON only"]),
        ("vars: [no.yaml]\nstages: {a: {cmd: x}}\n", ["no.yaml", "no such file"]),
        ("vars: 3\nstages: {a: {cmd: x}}\n", ["dvc.yaml:1:1", "`vars` is no list"]),
        ("vars: [5]\nstages: {a: {cmd: x}}\n", ["`vars` holds neither files nor values"]),
        (
            "stages:\n  a: {cmd: x, deps: [b], outs: [a]}\n  b: {cmd: x, deps: [a], outs: [b]}\n",
            ["the stages wait for each other: a -> b -> a"],
        ),
    ],
)
def test_file_that_is_no_pipeline_is_refused(
    buildrun: Buildrun, tmp_path: Path, dvc: str, facts: list[str]
) -> None:
    (tmp_path / "dvc.yaml").write_text(dvc)
    buildrun("init", "--from", "dvc.yaml").refused(*facts)
    assert not (tmp_path / "MLproject").exists()


def test_hostile_names_and_texts(buildrun: Buildrun, pipeline: Any, tmp_path: Path) -> None:
    dvc = (
        "stages:\n"
        "  'it''s {a}':\n    desc: 'a: b # c'\n    cmd: python step.py '[x].txt' '{not} a field'\n"
        "    deps: [step.py]\n    outs: ['[x].txt']\n"
        "  '01':\n    cmd: python step.py b.txt\n    deps: ['[x].txt']\n    outs: [b.txt]\n"
    )
    outcome, project = pipeline(dvc)
    assert outcome.code == 0
    assert list(project["entry_points"]) == ["it's {a}", "01", "main"]
    buildrun("validate", "--strict", "pipeline").printed()
    run(buildrun, tmp_path)
    assert (tmp_path / "pipeline/[x].txt").read_text() == "{not} a field\n"
    assert "2 up to date" in run(buildrun, tmp_path).err


def test_existing_mlproject_is_kept(buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo}}\n")
    (tmp_path / "MLproject").write_text("mine\n")
    buildrun("init", "--from", "dvc.yaml").refused("`MLproject` would be overwritten")
    assert (tmp_path / "MLproject").read_text() == "mine\n"
    buildrun("init", "--from", "dvc.yaml", tmp_path).refused("`--from` goes with neither", code=2)


def test_texts_with_control_characters_stay_what_they_are(
    buildrun: Buildrun, pipeline: Any
) -> None:
    texts = ["g\nh", "a\x85b", "t\tb", "blank ", " ", "", "\u2028", "\u2029x", "x: y", "...", "---"]
    dvc = {
        "stages": {
            "each": {
                "foreach": texts,
                "do": {"cmd": ["true ${item}x\n", "true"], "desc": "${item}", "deps": ["${item}f"]},
            }
        }
    }
    _, project = pipeline(yaml.safe_dump(dvc))
    buildrun("validate", "--strict", "pipeline").printed()
    for text in texts:
        entry_point = project["entry_points"][f"each@{text}"]
        assert entry_point["command"].startswith(f"true {text}x")
        assert entry_point.get("description", "") == text


def test_stage_that_would_make_the_mlproject_invalid_is_left_out(
    buildrun: Buildrun, pipeline: Any
) -> None:
    dvc = (
        "stages:\n  good: {cmd: echo, outs: [a/b]}\n"
        "  all: {cmd: echo, outs: [.]}\n"
        "  nothing: {cmd: echo, outs: ['']}\n"
        "  itself: {cmd: echo, outs: [MLproject]}\n"
        "  git: {cmd: echo, outs: [.git]}\n"
        "  above: {cmd: echo, outs: [a]}\n"
        '  path: {cmd: echo, deps: ["a\\0b"], outs: [c]}\n'
        '  command: {cmd: "echo \\0"}\n'
        '  directory: {cmd: echo, wdir: "a\\0b"}\n'
        "  mapping: {cmd: {b: c}}\n"
        "  list: {cmd: [x, {b: c}]}\n"
        "  truth: {cmd: true}\n"
        "  absent: {cmd: echo, vars: [no.yaml]}\n"
        "  number: {cmd: echo, vars: 3}\n"
    )
    outcome, project = pipeline(dvc, code=1)
    assert list(project["entry_points"]) == ["good", "main"]
    buildrun("validate", "--strict", "pipeline").printed()
    for told in (
        "dvc.yaml:3:3: the stage `all` is left out: the output `.` is the project itself",
        "the stage `nothing` is left out: the output `.` is the project itself",
        "the stage `itself` is left out: the output `MLproject` is the MLproject file",
        "the stage `git` is left out: the output `.git` belongs to git",
        "the stage `above` is left out: the output `a` of `above` overlaps with `a/b` of `good`\n",
        "the stage `path` is left out: a path holds a NUL byte",
        "the stage `command` is left out: its command holds a NUL byte",
        "the stage `directory` is left out: a path holds a NUL byte",
        "the stage `mapping` is left out: `cmd` is neither a text nor a list of texts",
        "the stage `list` is left out: `cmd` is neither",
        "the stage `truth` is left out: `cmd` is neither",
        "the stage `absent` is left out: no.yaml:1:1: no such file",
        "the stage `number` is left out: `vars` is no list",
    ):
        assert told in outcome.err


def test_pipeline_whose_mlproject_would_be_invalid_is_refused(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    key = "x" * 1000  # with the item it is longer than a key of YAML may be
    dvc = f"stages:\n  {key}: {{foreach: [{key}], do: {{cmd: echo}}}}\n"
    (tmp_path / "dvc.yaml").write_text(dvc)
    buildrun("init", "--from", "dvc.yaml").refused("the MLproject would be invalid")
    assert not (tmp_path / "MLproject").exists()


def test_stages_of_one_name_are_told(pipeline: Any) -> None:
    dvc = (
        "stages:\n  1: {cmd: echo one}\n  '1': {cmd: echo two}\n  a@x: {cmd: echo A}\n"
        "  a: {foreach: [x, y, y], do: {cmd: echo B}}\n"
    )
    outcome, project = pipeline(dvc, code=1)
    commands = {name: item["command"] for name, item in project["entry_points"].items()}
    assert commands == {
        "1": "echo one", "a@x": "echo A", "a@y": "echo B", "main": "true"
    }  # fmt: skip
    assert "dvc.yaml:3:3: the stage `1` is left out: another one has its name" in outcome.err
    assert "the stage `a@x` is left out: another one has its name" in outcome.err
    assert "the stage `a@y` is left out: another one has its name" in outcome.err
