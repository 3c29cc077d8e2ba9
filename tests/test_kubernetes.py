"""Projects on a cluster whose pods are real: the stand-in's, or those of a real cluster."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Buildrun, Project
from docker_helpers import BASE, Registry, docker
from kube_kubelet import Pod
from kubernetes_helpers import REAL, Place, Run, Staged, Start, Store, written
from wheels import write_wheel

pytest_plugins = "kubernetes_helpers"

ENTRY = "docker_env: {image: '" + BASE + "'}\nname: inside\nentry_points:\n"

WHOLE = """\
printf '%s\\n' "two  words" 'single $HOME "q"' it\\'s && echo pipe | tr a-z A-Z
NAME=shell; echo "$NAME" $(echo "$NAME" inner) '$(NAME)' '$$NAME' "$((1 + 2))" `echo back`
test $$ -gt 0 && echo pid; for i in 1 2; do echo $i; done > /tmp/list; cat /tmp/list
[[ a == a ]] && echo bash; false || echo "|| & ; < > * ? # ~ \\\\"
cat <<END
  here $NAME
END
echo error >&2; exit 3
"""

# From MLflow's documentation, as its page has it but for the names of what it runs on.
DOCUMENTED_CONFIG = """\
{
  "kube-context": "docker-for-desktop",
  "repository-uri": "username/mlflow-kubernetes-example",
  "kube-job-template-path": "/Users/username/path/to/kubernetes_job_template.yaml"
}
"""
DOCUMENTED_TEMPLATE = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: "{replaced with MLflow Project name}"
  namespace: mlflow
spec:
  ttlSecondsAfterFinished: 100
  backoffLimit: 0
  template:
    spec:
      containers:
      - name: "{replaced with MLflow Project name}"
        image: "{replaced with URI of Docker image created during Project execution}"
        command: ["{replaced with MLflow Project entry point command}"]
        env: ["{appended with MLFLOW_TRACKING_URI, MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_ID}"]
        resources:
          limits:
            memory: 512Mi
          requests:
            memory: 256Mi
      restartPolicy: Never
"""


def mlproject(command: str, **keys: Any) -> str:
    """Return a project of one entry point."""
    entry = {"command": command, **keys}
    return yaml.safe_dump(
        {"name": "inside", "docker_env": {"image": BASE}, "entry_points": {"main": entry}}
    )


def container(job: dict[str, Any]) -> dict[str, Any]:
    """Return the first container of a Job."""
    found: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return found


def test_whole_command_runs_in_the_pod_as_in_bash(
    project: Project, run: Run, tmp_path: Path
) -> None:
    here = subprocess.run(
        ("bash", "-c", WHOLE), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    outcome = run("-q", project(mlproject(WHOLE)))
    assert outcome.code == here.returncode == 3
    written_here = sorted((here.stdout + here.stderr).splitlines())
    assert sorted(outcome.out.splitlines()) == written_here, outcome.err
    assert "error: [main] the command ended with exit code 3" in outcome.err


def test_pods_without_bash_and_with_python3_alone_run_what_they_can(
    project: Project, run: Run, objects: Store
) -> None:
    recipe = f"FROM {BASE}\nRUN rm -f /bin/bash /usr/bin/python\n"
    image = docker("build", "-q", "-", data=recipe.encode())
    try:
        directory = project(
            "name: inside\ndocker_env: {image: '" + image + "'}\nentry_points:\n"
            "  plain: {parameters: {p: {default: a b}}, command: 'python code.py {p}'}\n"
            "  shell: {command: 'echo $0 && python code.py; exit 3'}\n"
            "  arrays: {command: 'a=(1 2); echo ${{a[1]}}'}\n"
            "  made: {inputs: [code.py], outputs: [out], command: python code.py made}\n",
            code__py="import sys\nprint(sys.argv[1:])\nopen('out', 'w').write('made')\n",
        )
        cache = ("--remote-cache", objects.url, "--remote-cache-write")
        for options, code, out in (
            (("-e", "plain"), 0, "['a b']\n"),
            (("-e", "shell"), 3, "sh\n[]\n"),
            (("-e", "code.py", "-P", "p=$x"), 0, "['--p', '$x']\n"),
            (("-e", "made", *cache), 0, "['made']\n"),
        ):
            outcome = run("-q", directory, *options, environ=objects.environ)
            assert (outcome.code, outcome.out) == (code, out), outcome.err
        assert (directory / "out").read_text() == "made"
        outcome = run("-q", directory, "-e", "arrays")
        assert outcome.code == 127
        assert "the command is written for bash, and the image has no bash" in (
            outcome.out + outcome.err
        )
    finally:
        docker("rmi", "-f", image, check=False)


def test_command_runs_in_the_projects_directory_with_its_files(project: Project, run: Run) -> None:
    outcome = run("-q", project(mlproject("pwd; ls; cat data.txt"), data__txt="content\n"))
    assert outcome.out == "/mlflow/projects/code\nMLproject\ndata.txt\ncontent\n", outcome.err
    assert outcome.code == 0


def test_values_of_parameters_stay_data(project: Project, run: Run) -> None:
    directory = project(mlproject("printf '%s\\n' {p}", parameters={"p": "string"}))
    value = "$(NAME) $$ ${HOME} `id` \"d\" 'q' \\ ; é\nnext"
    outcome = run("-q", directory, "-P", f"p={value}", environ={"NAME": "expanded"})
    assert outcome.out == f"{value}\n", outcome.err


@pytest.mark.usefixtures("kept")
def test_variables_of_the_project_reach_the_pod_and_secrets_are_kept_apart(
    project: Project, run: Run, place: Place
) -> None:
    directory = project(
        f"name: inside\ndocker_env:\n  image: {BASE}\n"
        "  environment: [[NEW_VAR, 'a $(COPIED) $$ c'], COPIED, API_TOKEN]\n"
        "entry_points:\n  main:\n    env: {MODE: fast}\n    pass_env: [PASSED]\n"
        "    command: 'echo \"$NEW_VAR|$COPIED|$API_TOKEN|$MODE|$PASSED|$OTHER\"'\n"
    )
    environ = {
        "COPIED": "line\n$(NEW_VAR)", "API_TOKEN": "hunter2 $(COPIED)", "PASSED": "passed",
        "OTHER": "not declared",
    }  # fmt: skip
    outcome = run("-q", directory, environ=environ, config={"keep-jobs": "always"})
    expected = "a $(COPIED) $$ c|line\n$(NEW_VAR)|hunter2 $(COPIED)|fast|passed|\n"
    assert outcome.out == expected, outcome.err
    assert "hunter2" not in json.dumps([place.job(), place.all("pods")])


def test_secrets_are_known_by_their_names_and_as_urls_with_passwords(stage: Staged) -> None:
    jobs: list[str] = []

    def play(pod: Pod) -> None:
        jobs.append(json.dumps(pod.current))
        pod.running()
        pod.ended(0)

    names = (
        "PGPASSWORD",
        "FERNET_KEY",
        "AZURE_STORAGE_CONNECTION_STRING",
        "TOKEN_OF_HUB",
        "db_pwd",
    )
    values = {name: f"hunter2 of {name}" for name in names}
    values |= {"DATABASE_URL": "postgres://me:hunter2@db/x", "TOKENIZERS_PARALLELISM": "seen"}
    entry = f"  main: {{pass_env: [{', '.join(values)}], command: 'true'}}\n"
    outcome = stage(play, entry).run(environ=values)
    assert outcome.code == 0, outcome.err
    assert "hunter2" not in "".join(jobs) + outcome.err
    assert "seen" in "".join(jobs)


@pytest.mark.usefixtures("kept")
def test_secret_among_the_parameters_is_kept_apart(
    project: Project, run: Run, place: Place
) -> None:
    directory = project(
        f"name: inside\ndocker_env: {{image: {BASE}}}\nentry_points:\n  main:\n"
        '    parameters: {token: string}\n    command: \'echo {token} "$BUILDRUN_COMMAND" "$0"\'\n'
    )
    outcome = run("-q", directory, "-P", "token=hunter2 $(x) '", config={"keep-jobs": "always"})
    assert outcome.out == "hunter2 $(x) '  bash\n", outcome.err
    assert "hunter2" not in json.dumps([place.job(), place.all("pods")]) + outcome.err


@pytest.mark.usefixtures("kept")
def test_only_the_first_container_of_a_template_is_changed(
    project: Project, run: Run, place: Place, tmp_path: Path
) -> None:
    side = f"{place.repository}:side"
    docker("tag", BASE, side)
    try:
        docker("push", side)
    finally:
        docker("rmi", side, check=False)
    sidecar = {
        "name": "side", "image": side, "command": ["bash", "-c", "echo of the side $(A)"],
        "env": [{"name": "A", "value": "kept"}],
    }  # fmt: skip
    template = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "theirs", "labels": {"team": "blue"}, "annotations": {"a/b": "c d"}},
        "spec": {
            "ttlSecondsAfterFinished": 1000,
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"tier": "batch"}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 5,
                    "volumes": [{"name": "scratch", "emptyDir": {}}],
                    "containers": [
                        {
                            "name": "replaced", "image": "replaced", "command": ["replaced"],
                            "env": [{"name": "OF_THE_TEMPLATE", "value": "there"}],
                            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                            "resources": {"limits": {"memory": "512Mi"}},
                        },
                        sidecar,
                    ],
                },
            },
        },
    }  # fmt: skip
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(template))
    before = path.read_bytes()
    directory = project(mlproject("echo $OF_THE_TEMPLATE; touch /scratch/a && ls /scratch"))
    config = {"kube-job-template-path": str(path), "keep-jobs": "always"}
    outcome = run("-q", directory, config=config)
    assert (outcome.code, outcome.out) == (0, "there\na\n"), outcome.err
    assert path.read_bytes() == before

    job = place.job()
    assert job["metadata"]["name"].startswith("br-inside-main-")
    assert job["metadata"]["labels"]["team"] == "blue"
    assert job["metadata"]["annotations"]["a/b"] == "c d"
    assert job["spec"]["ttlSecondsAfterFinished"] == 1000
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"]["tier"] == "batch"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 5
    assert pod["spec"]["volumes"] == [{"name": "scratch", "emptyDir": {}}]
    first, second = pod["spec"]["containers"]
    assert second.items() >= sidecar.items()
    assert first["name"] == "inside"
    assert first["image"].startswith(f"{place.repository}@sha256:")
    assert first["command"][:2] == ["sh", "-c"]
    assert first["resources"] == {"limits": {"memory": "512Mi"}}
    assert first["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.usefixtures("kept")
def test_job_tells_project_step_key_and_owner(project: Project, run: Run, place: Place) -> None:
    assert run(project(mlproject("true")), config={"keep-jobs": "always"}).code == 0
    job = place.job()
    for each in (job, *place.all("pods")):
        labels, notes = each["metadata"]["labels"], each["metadata"]["annotations"]
        assert labels["app.kubernetes.io/managed-by"] == "buildrun"
        assert labels["buildrun/project"] == notes["buildrun/project"] == "inside"
        assert labels["buildrun/step"] == notes["buildrun/step"] == "main"
        assert labels["buildrun/owner"] == notes["buildrun/owner"] == place.owner
        assert notes["buildrun/key"].startswith("blake3:")
        assert (
            notes["buildrun/key"].endswith(labels["buildrun/key"][-10:])
            or len(labels["buildrun/key"]) == 63
        )
        assert notes["buildrun/version"]


@pytest.mark.usefixtures("kept")
def test_config_decides_what_the_default_template_leaves_open(
    project: Project, run: Run, place: Place
) -> None:
    config = {
        "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "300Mi"}},
        "service-account": "default",
        "image-pull-secrets": ["credentials"],
        "keep-jobs": "always",
    }
    outcome = run("-q", project(mlproject("echo done")), config=config)
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err
    spec = place.job()["spec"]
    pod = spec["template"]["spec"]
    assert container(place.job())["resources"] == config["resources"]
    assert pod["serviceAccountName"] == "default"
    assert {"name": "credentials"} in pod["imagePullSecrets"]
    assert pod["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 0
    assert spec["ttlSecondsAfterFinished"] == 7 * 86_400


def test_config_adds_to_the_templates_resources(project: Project, run: Run, tmp_path: Path) -> None:
    template = yaml.safe_load(DOCUMENTED_TEMPLATE)
    del template["metadata"]["namespace"]
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(template))
    config = {
        "kube-job-template-path": "template.yaml",
        "resources": {"limits": {"memory": "900Mi"}},
    }
    show = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
    outcome = run("-q", project(mlproject(f"{show} | head -1")), config=config)
    assert outcome.out == f"{900 * 1024 * 1024}\n", outcome.err


@pytest.mark.skipif(bool(REAL), reason="takes a namespace of its own")
def test_namespace_of_the_config_comes_before_the_templates_and_the_contexts(
    project: Project, run: Run, place: Place, tmp_path: Path
) -> None:
    assert place.standin is not None
    for name in ("mlflow", "other", "contexts"):
        place.standin.namespace(name)
    place.standin.kubeconfig(place.kubeconfig, namespace="contexts")
    (tmp_path / "template.yaml").write_text(DOCUMENTED_TEMPLATE)
    template = {"kube-job-template-path": "template.yaml"}
    directory = project(mlproject("true"))
    for config, expected in (
        ({"namespace": "other", **template}, "other"),
        ({"namespace": None, **template}, "mlflow"),
        ({"namespace": None}, "contexts"),
    ):
        assert run(directory, config=config).code == 0
        made = [each.path for each in place.standin.requests if each.method == "POST"]
        assert made[-1] == f"/apis/batch/v1/namespaces/{expected}/jobs"


@pytest.mark.skipif(bool(REAL), reason="takes Kueue")
def test_queue_of_the_config_admits_the_job(project: Project, start: Start, place: Place) -> None:
    assert place.standin is not None
    live = start(project(mlproject("echo admitted")), **{"queue-name": "gpus"})
    live.said("the Job is queued: it is suspended until there is room for it")
    (job,) = place.all("jobs")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True
    assert place.all("pods") == []
    place.standin.update(
        "jobs", job["metadata"]["name"], lambda each: each["spec"].update(suspend=False)
    )
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "admitted\n"), outcome.err


def test_tracking_uri_for_pods_replaces_that_of_this_machine(project: Project, run: Run) -> None:
    directory = project(mlproject('echo "$MLFLOW_TRACKING_URI"'))
    environ = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9/here"}
    other = {**environ, "KUBE_MLFLOW_TRACKING_URI": "http://tracking.example:5000"}
    plain = run("-q", directory, "--tracking", "off", environ=environ)
    assert plain.out == "http://127.0.0.1:9/here\n", plain.err
    found = run("-q", directory, "--tracking", "off", environ=other)
    assert found.out == "http://tracking.example:5000\n", found.err


def test_exit_code_is_the_containers(project: Project, run: Run) -> None:
    directory = project(
        ENTRY + "  none: {command: nosuchprogram}\n"
        "  killed: {command: '(kill -9 $BASHPID); exit $?'}\n"
    )
    assert run("-q", directory, "-e", "none").code in (127, 128)  # runtimes differ
    assert run("-q", directory, "-e", "killed").code == 137


def test_documented_guide_works_word_by_word(
    project: Project, buildrun: Any, place: Place, tmp_path: Path
) -> None:
    template = tmp_path / "kubernetes_job_template.yaml"
    config = json.loads(DOCUMENTED_CONFIG)
    config["repository-uri"] = place.repository
    config["kube-job-template-path"] = str(template)
    text = DOCUMENTED_TEMPLATE
    if place.standin is not None:
        place.standin.namespace("mlflow")
        place.standin.kubeconfig(place.kubeconfig, context="docker-for-desktop")
    else:
        config["kube-context"] = place.context
        text = text.replace("namespace: mlflow", f"namespace: {place.namespace}")
    template.write_text(text)
    (tmp_path / "kubernetes_config.json").write_text(json.dumps(config))
    directory = project(
        mlproject('echo "$MLFLOW_TRACKING_URI" && echo {x}', parameters={"x": {"default": 1}})
    )
    outcome = buildrun(
        "run", directory, "--backend", "kubernetes",
        "--backend-config", "kubernetes_config.json", "--tracking", "off",
        environ={**place.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, "http://127.0.0.1:9\n1\n"), outcome.err


def test_template_is_found_beside_the_config(
    project: Project, buildrun: Any, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "settings").mkdir()
    template = yaml.safe_load(DOCUMENTED_TEMPLATE)
    del template["metadata"]["namespace"]
    template["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "it"}]
    (tmp_path / "settings/template.yaml").write_text(yaml.safe_dump(template))
    written(place, tmp_path / "settings", **{"kube-job-template-path": "template.yaml"})
    outcome = buildrun(
        "-q", project(mlproject("echo $A")), "-b", "kubernetes",
        "-c", "settings/kubernetes_config.json", environ=place.environ,
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, "it\n"), outcome.err


def test_config_may_be_given_as_text(project: Project, buildrun: Any, place: Place) -> None:
    text = json.dumps({"repository-uri": place.repository, "namespace": place.namespace})
    outcome = buildrun(
        "-q", project(mlproject("echo done")), "-b", "kubernetes", "-c", text,
        environ=place.environ,
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err


@pytest.mark.usefixtures("kept")
def test_image_runs_by_digest_and_is_pushed_once(
    project: Project, run: Run, place: Place, request: pytest.FixtureRequest
) -> None:
    directory = project(mlproject("cat code.txt"), code__txt="one\n")
    keep = {"keep-jobs": "always", "repository-uri": f"{place.repository}-once"}
    assert run("-q", directory, config=keep).out == "one\n"
    repository, _, digest = container(place.job())["image"].partition("@")
    assert (repository, digest[:7]) == (f"{place.repository}-once", "sha256:")
    if REAL:
        return
    there: Registry = request.getfixturevalue("own_registry")
    log = there.log.read_text()
    again = run("-q", directory, config=keep)
    assert again.out == "one\n", again.err
    assert '"PUT /v2/' not in there.log.read_text()[len(log) :]
    assert '"POST /v2/' not in there.log.read_text()[len(log) :]

    (directory / "code.txt").write_text("two\n")
    assert run("-q", directory, config=keep).out == "two\n"
    assert '"PUT /v2/' in there.log.read_text()[len(log) :]


@pytest.mark.skipif(bool(REAL), reason="takes a registry of its own")
def test_image_that_the_registry_has_lost_is_pushed_again(
    project: Project, run: Run, place: Place, own_registry: Registry
) -> None:
    directory = project(mlproject("echo there"))
    assert run("-q", directory, config={"repository-uri": f"{place.repository}-a"}).code == 0
    before = own_registry.asked("PUT")
    other = run("-q", directory, config={"repository-uri": f"{place.repository}-b"})
    assert other.out == "there\n", other.err
    assert own_registry.asked("PUT") > before


def test_python_env_project_runs_in_its_environment_and_plan_knows_its_results(
    project: Project, run: Run, buildrun: Buildrun, objects: Store, tmp_path: Path
) -> None:
    write_wheel(tmp_path / "wheels", "alpha", "1.0")
    directory = project(
        "name: inside\npython_env: python_env.yaml\nentry_points:\n"
        "  main:\n    inputs: [MLproject]\n    outputs: [out]\n"
        "    command: \"python -c 'import sys, alpha; print(sys.prefix, alpha.VERSION)' > out\"\n",
        python_env__yaml="python: '3.11'\ndependencies: [alpha==1.0]\n",
    )
    settings: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("PIP_", "UV_", "CONDA"))
    }
    settings |= {
        "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }  # fmt: skip
    environ = {**objects.environ, **settings}
    cache = ("--remote-cache", objects.url, "--remote-cache-write")
    outcome = run("-q", directory, *cache, environ=environ, config={"docker_base": BASE})
    assert outcome.code == 0, outcome.err
    assert (directory / "out").read_text() == "/opt/buildrun/env 1.0\n"
    config = json.dumps({"docker_base": BASE})
    words = ("plan", directory, "-b", "kubernetes", "-c", config, "--format", "json")
    (step,) = buildrun(*words, environ=environ).data["steps"]
    assert step["cache"]["state"] == "up-to-date"


@pytest.mark.parametrize(
    "name",
    ["My Project!", "-.-", "ÄÖÜ ßtraße/and..more", "9" * 300],
)
def test_any_name_of_a_project_becomes_one_that_the_cluster_accepts(
    project: Project, run: Run, name: str
) -> None:
    text = yaml.safe_dump(
        {
            "name": name,
            "docker_env": {"image": BASE},
            "entry_points": {"Enter Here_" + "e" * 70: {"command": "echo named"}},
        }
    )
    outcome = run("-q", project(text), "-e", "Enter Here_" + "e" * 70)
    assert (outcome.code, outcome.out) == (0, "named\n"), outcome.err


STEPS = f"""\
name: steps
docker_env: {{image: '{BASE}'}}
entry_points:
  prepare:
    inputs: [raw.txt]
    outputs: [data/, link]
    command: "mkdir data; sort raw.txt > data/sorted; chmod +x data/sorted; ln -s data/sorted link"
  train:
    depends_on: [prepare]
    inputs: [MLproject]
    outputs: [model.txt]
    command: "test -x data/sorted && cat link data/sorted > model.txt; echo trained"
  show:
    parameters: {{file: path}}
    command: "cat {{file}}"
"""


def test_files_travel_from_step_to_step_and_back(
    project: Project, run: Run, objects: Store, place: Place, tmp_path: Path
) -> None:
    directory = project(STEPS, raw__txt="b\na\n")
    report = tmp_path / "report.json"
    cache = ("--remote-cache", objects.url, "--remote-cache-write")
    words = ("-q", directory, "-e", "train", *cache, "--report", report)
    first = run(*words, environ=objects.environ)
    assert (first.code, first.out) == (0, "trained\n"), first.err
    assert (directory / "model.txt").read_text() == "a\nb\na\nb\n"
    assert (directory / "data/sorted").stat().st_mode & 0o100
    assert os.readlink(directory / "link") == "data/sorted"
    assert states(report) == {"prepare": "ok", "train": "ok"}
    assert place.settled() == []

    # Other inputs: the delivery of before does not pass for theirs.
    (directory / "raw.txt").write_text("d\nc\n")
    assert run(*words, environ=objects.environ).code == 0
    assert (directory / "model.txt").read_text() == "c\nd\nc\nd\n"


def states(report: Path) -> dict[str, str]:
    return {each["id"]: each["state"] for each in json.loads(report.read_text())["steps"]}


ANY_USER = f"""\
name: any-user
docker_env: {{image: '{BASE}'}}
entry_points:
  prepare:
    inputs: [raw.txt]
    outputs: [data/]
    command: "mkdir data && sort raw.txt > data/sorted && echo more >> raw.txt && touch src/new"
  train:
    depends_on: [prepare]
    inputs: [raw.txt]
    outputs: [user]
    command: "echo more >> data/sorted && rm -r data && id -u > user"
"""


@pytest.mark.parametrize(
    "context",
    [
        {"runAsUser": 1234, "runAsNonRoot": True},
        {"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 1234},
        {"runAsUser": 1000660000, "runAsGroup": 0, "supplementalGroups": [7]},
    ],
)
def test_pod_of_any_user_may_write_into_the_project(
    project: Project, run: Run, objects: Store, tmp_path: Path, context: dict[str, Any]
) -> None:
    directory = project(ANY_USER, raw__txt="b\na\n")
    directory.joinpath("src").mkdir()
    directory.joinpath("src/a.py").touch()
    path = tmp_path / "template.yaml"
    path.write_text(written_template(securityContext=context))
    outcome = run(
        directory, "-e", "train", "--remote-cache", objects.url,
        config={"kube-job-template-path": str(path)}, environ=objects.environ,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (directory / "user").read_text() == f"{context['runAsUser']}\n"
    assert (directory / "data/sorted").read_text() == "a\nb\n"


def written_template(**pod: Any) -> str:
    """Return a Job template with some keys in its pod's spec."""
    spec = {"containers": [{"name": "main"}], "restartPolicy": "Never", **pod}
    return yaml.safe_dump(
        {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": spec}}}
    )


@pytest.mark.parametrize(
    ("pod", "command", "code", "hint"),
    [
        ({"runAsNonRoot": True}, "true", 1, "set `runAsUser` in the Job template's"),
        ({"runAsUser": 1234}, "touch /etc/x", 1, "the pod does not run as root"),
    ],
)
def test_what_a_user_may_not_do_is_told_with_the_remedy(
    project: Project, run: Run, tmp_path: Path, pod: dict[str, Any], command: str, code: int,
    hint: str,
) -> None:  # fmt: skip
    path = tmp_path / "template.yaml"
    path.write_text(written_template(securityContext=pod))
    outcome = run(project(mlproject(command)), config={"kube-job-template-path": str(path)})
    assert outcome.code == code
    assert f"hint: {hint}" in outcome.err


def test_sealed_file_system_is_told_with_the_remedy(
    project: Project, run: Run, objects: Store, tmp_path: Path
) -> None:
    path = tmp_path / "template.yaml"
    context = {"readOnlyRootFilesystem": True}
    path.write_text(written_template(containers=[{"securityContext": context}]))
    outcome = run(
        project(STEPS, raw__txt="b\n", MLproject__bak="x"), "-e", "train", "--remote-cache",
        objects.url, config={"kube-job-template-path": str(path)}, environ=objects.environ,
    )  # fmt: skip
    assert outcome.code != 0
    assert "hint: `readOnlyRootFilesystem` in the Job template forbids it" in outcome.err


def test_path_outside_the_project_travels_to_the_pod(
    project: Project, run: Run, objects: Store, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("content\n")
    directory = project(STEPS, raw__txt="in the image\n")
    words = ("-q", directory, "-e", "show", "--remote-cache", objects.url)
    outcome = run(*words, "-P", f"file={tmp_path / 'a file'}", environ=objects.environ)
    assert (outcome.code, outcome.out) == (0, "content\n"), outcome.err


def test_input_that_git_ignores_travels_without_outputs(
    project: Project, run: Run, objects: Store
) -> None:
    text = mlproject("cat data/* raw.txt", inputs=["data/", "raw.txt"])
    directory = project(text, raw__txt="in the image\n", __gitignore="*.csv\n")
    (directory / "data").mkdir()
    (directory / "data" / "kept.txt").write_text("kept\n")
    there = run("-q", directory)
    assert (there.code, there.out) == (0, "kept\nin the image\n"), there.err
    (directory / "data" / "big.csv").write_text("ignored\n")
    words = ("-q", directory, "--remote-cache", objects.url)
    outcome = run(*words, environ=objects.environ)
    assert (outcome.code, outcome.out) == (0, "ignored\nkept\nin the image\n"), outcome.err
    refused = run("-q", directory)
    assert refused.code == 1
    assert "the step `main` reads `data`" in refused.err


def test_path_in_the_project_takes_no_remote_cache(project: Project, run: Run) -> None:
    directory = project(STEPS, raw__txt="in the image\n")
    outcome = run("-q", directory, "-e", "show", "-P", f"file={directory / 'raw.txt'}")
    assert (outcome.code, outcome.out) == (0, "in the image\n"), outcome.err


def test_failed_step_leaves_the_outputs_as_they_were(
    project: Project, run: Run, objects: Store, place: Place
) -> None:
    directory = project(STEPS.replace("echo trained", "exit 4"), raw__txt="b\na\n")
    (directory / "model.txt").write_text("old\n")
    words = ("-q", directory, "-e", "train", "--remote-cache", objects.url)
    outcome = run(*words, environ=objects.environ)
    assert outcome.code == 4, outcome.err
    assert (directory / "model.txt").read_text() == "old\n"
    assert place.settled() == []


def test_without_a_remote_cache_it_is_said_what_is_needed(
    project: Project, run: Run, place: Place
) -> None:
    outcome = run(project(STEPS, raw__txt="b\n"), "-e", "prepare")
    assert outcome.code == 1
    assert "the step `prepare` has outputs" in outcome.err
    assert "--remote-cache s3://BUCKET/PREFIX" in outcome.err
    if place.standin is not None:
        assert not [each for each in place.standin.requests if each.method == "POST"]


def test_step_that_takes_too_long_ends_and_says_so(project: Project, run: Run) -> None:
    outcome = run("-q", project(mlproject("echo begun; exec sleep 600", timeout="2s")))
    assert (outcome.code, outcome.out) == (124, "begun\n"), outcome.err
    assert "2 s" in outcome.err


def test_interrupt_deletes_the_jobs_of_all_steps(
    project: Project, start: Start, place: Place
) -> None:
    wait = "sleep 600 & trap 'kill $!' TERM; echo up{}; wait"
    steps = "".join(f'  s{n}: {{command: "{wait.format(n)}"}}\n' for n in range(3))
    directory = project(ENTRY + steps + "  main: {depends_on: [s0, s1, s2], command: 'true'}\n")
    live = start("-q", directory, "-j", "3", "--output", "stream")
    for number in range(3):
        live.said(f"up{number}")
    live.interrupt()
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert place.left() == []
