"""A kubelet that plays each pod by real containers, through Docker's command line."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kube_inputs import Inputs, Mount, Unready, expand
from kube_pod import Pod
from kube_rules import quantity

Object = dict[str, Any]

LABEL = "buildrun-test-kubelet"

# A termination message, and the part of a log that may stand for one; bytes and lines.
MESSAGE, FALLBACK, FALLBACK_LINES = 4096, 2048, 80

# Variables that Docker's command line reads for itself.
ITS_OWN = re.compile(r"HOME|PATH|XDG_.*|DOCKER_.*|BUILDX_.*|.*[Pp][Rr][Oo][Xx][Yy]|LD_.*|SSL_.*")


class DockerKubelet:
    """Runs the containers of a pod on this machine's engine, with the network of the host.

    What does not start, or ends, is not tried again.
    """

    slack = 60.0

    def __init__(self) -> None:
        self.docker = shutil.which("docker") or "docker"
        self._pulled: set[str] = set()
        self.id = f"kubelet-{secrets.token_hex(8)}"
        self.root = Path(tempfile.gettempdir()) / self.id  # there from the first pod on

    def play(self, pod: Pod) -> None:
        directory = self.root / pod.uid
        self.root.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir()
        running = _Running(self, pod, directory)
        try:
            running.play()
        finally:
            running.close()
            shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        left = self.run("ps", "-aq", "--no-trunc", "--filter", f"label={LABEL}={self.id}")
        if left.stdout.split():
            self.run("rm", "--force", "--volumes", *left.stdout.split())
        for image in self._pulled:
            self.run("rmi", image)
        shutil.rmtree(self.root, ignore_errors=True)

    def pulled(self, image: str) -> None:
        """Note an image that was not there, so that it goes in the end."""
        self._pulled.add(image)

    def run(
        self, *words: str, environ: Mapping[str, str] | None = None, limit: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Call docker; limit: seconds."""
        return subprocess.run(
            (self.docker, *words), env={**os.environ, **(environ or {})}, capture_output=True,
            text=True, errors="replace", timeout=limit, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip


class _Running:
    """The containers of one pod."""

    def __init__(self, kubelet: DockerKubelet, pod: Pod, directory: Path) -> None:
        self._kubelet = kubelet
        self._pod = pod
        self._directory = directory
        self._ids: list[str] = []
        self._done: set[str] = set()
        self._inputs = Inputs(pod, directory)
        self._troubles: list[BaseException] = []

    def play(self) -> None:
        pod = self._pod
        pod.scheduled()
        self._inputs.mount_all()
        threads = [
            threading.Thread(target=self._thread, args=(container,), name=f"{pod.name}-container")
            for container in pod.spec["containers"]
        ]
        for thread in threads:
            thread.start()
        allowed = pod.spec.get("activeDeadlineSeconds") or 24 * 3600
        going = pod.until(lambda: len(self._done) == len(threads), allowed)
        late = going and len(self._done) < len(threads)
        if late:
            text = "Pod was active on the node longer than the specified deadline"
            pod.status({"phase": "Failed", "reason": "DeadlineExceeded", "message": text})
        if late or not going:
            self._stop()
        for thread in threads:
            thread.join()
        if self._troubles:
            raise self._troubles[0]

    def close(self) -> None:
        if self._ids:
            self._kubelet.run("rm", "--force", "--volumes", *self._ids)

    def _stop(self) -> None:
        meta = self._pod.current["metadata"]
        grace = meta.get("deletionGracePeriodSeconds", 0) if "deletionTimestamp" in meta else 0
        for name in list(self._ids):
            if grace:
                self._kubelet.run("stop", "--time", str(grace), name, limit=grace + 60)
            else:
                self._kubelet.run("kill", name)

    def _thread(self, container: Object) -> None:
        try:
            made = self._made(container)
            if made is not None:
                self._run(container, made)
        except BaseException as error:
            self._troubles.append(error)
        finally:
            self._done.add(container["name"])
            self._pod.again()

    def _made(self, container: Object) -> str | None:
        """Create a container, and return its id; None once the pod is to end."""
        while not self._pod.ending():
            reason, words = self._pull(container["image"], container["imagePullPolicy"])
            if not reason:
                try:
                    arguments, environ = self._words(container)
                except Unready as error:
                    reason, words = "CreateContainerConfigError", str(error)
            if not reason:
                done = self._kubelet.run("create", *arguments, environ=environ)
                if done.returncode == 0:
                    self._ids.append(done.stdout.strip())
                    return self._ids[-1]
                if "No such image" in done.stderr:  # tests beside us have removed it
                    continue
                reason, words = "CreateContainerError", done.stderr.strip()
            self._pod.waiting(reason, words, container=container["name"])
            self._pod.until(lambda: False)
        return None

    def _pull(self, image: str, policy: str) -> tuple[str, str]:
        """Have an image there; return what keeps it away, a reason and docker's words."""
        there = self._kubelet.run("image", "inspect", image).returncode == 0
        if there and policy != "Always":
            return "", ""
        done = self._kubelet.run("pull", "--quiet", image)
        if done.returncode:
            return "ImagePullBackOff", f'Back-off pulling image "{image}": {done.stderr.strip()}'
        if not there:
            self._kubelet.pulled(image)
        return "", ""

    def _verify_user(self, container: Object) -> None:
        """Raise Unready for a container that may not run as root, and would."""
        context = {
            **(self._pod.spec.get("securityContext") or {}),
            **(container.get("securityContext") or {}),
        }
        if not context.get("runAsNonRoot") or context.get("runAsUser"):
            return
        image = ("image", "inspect", "--format", "{{.Config.User}}", container["image"])
        if self._kubelet.run(*image).stdout.strip().partition(":")[0] in ("", "0"):
            place = f"pod: {self._pod.name}, container: {container['name']}"
            text = "container has runAsNonRoot and image will run as root"
            raise Unready(f"{text} ({place})")

    def _run(self, container: Object, made: str) -> None:
        pod, name = self._pod, container["name"]
        begun = self._kubelet.run("start", made)
        if begun.returncode:
            text = begun.stderr.strip().partition("\nError: ")[0]
            pod.ended(128, "StartError", text, container=name)
            return
        pod.running(container=name)
        if pod.ending():
            self._stop()
        self._follow(made, lambda data: pod.log(data, container=name))
        code = int(self._kubelet.run("wait", made, limit=24 * 3600).stdout)
        state = json.loads(self._kubelet.run("inspect", "-f", "{{json .State}}", made).stdout)
        reason = "OOMKilled" if state["OOMKilled"] else ""
        pod.logs[name][-1].close()
        message = self._message(container, failed=code != 0)
        pod.ended(code, reason, message, container=name)

    def _follow(self, made: str, write: Callable[[bytes], None]) -> None:
        with subprocess.Popen(
            (self._kubelet.docker, "logs", "--follow", made),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        ) as following:  # fmt: skip
            assert following.stdout is not None
            while data := following.stdout.read(64 * 1024):
                write(data)

    def _message(self, container: Object, *, failed: bool) -> str:
        path = self._message_file(container)
        text = path.read_bytes()[:MESSAGE].decode(errors="replace") if path.exists() else ""
        if text or not failed:
            return text
        if container["terminationMessagePolicy"] != "FallbackToLogsOnError":
            return ""
        return self._pod.logs[container["name"]][-1].tail(FALLBACK_LINES, FALLBACK)

    def _message_file(self, container: Object) -> Path:
        return self._directory / f"termination-{container['name']}"

    def _words(self, container: Object) -> tuple[list[str], dict[str, str]]:
        """Return the arguments of `docker create`, and variables for the command itself."""
        pod = self._pod
        variables = self._inputs.variables(container)
        self._verify_user(container)
        words = [
            "--label", f"{LABEL}={self._kubelet.id}",
            "--name", f"k8s_{container['name']}_{pod.name}_{pod.uid}",
            "--network", "host", "--pull", "never",
        ]  # fmt: skip
        environ = {}
        for name, value in variables.items():
            if ITS_OWN.fullmatch(name):
                words += ["--env", f"{name}={value}"]
            else:
                environ[name] = value
                words += ["--env", name]
        limits = (container.get("resources") or {}).get("limits") or {}
        if "memory" in limits:
            size = str(int(quantity(limits["memory"])))
            words += ["--memory", size, "--memory-swap", size]
        words += _user(pod.spec.get("securityContext") or {}, container)
        message = self._message_file(container)
        message.write_bytes(b"")
        message.chmod(0o666)
        mounts = [
            *map(self._inputs.mount, container.get("volumeMounts") or ()),
            Mount(str(message), container["terminationMessagePath"], readonly=False),
        ]
        for mount in mounts:
            text = f"type=bind,source={mount.source},target={mount.target}"
            words += ["--mount", text + (",readonly" if mount.readonly else "")]
        command = [expand(word, variables) for word in container["command"]]
        words += ["--entrypoint", command[0]]
        return [*words, container["image"], *command[1:]], environ


def _user(pod: Object, container: Object) -> list[str]:
    context = {**pod, **(container.get("securityContext") or {})}
    groups = [*(pod.get("supplementalGroups") or ()), pod.get("fsGroup")]
    words = [word for each in groups if each is not None for word in ("--group-add", str(each))]
    if context.get("readOnlyRootFilesystem"):
        words.append("--read-only")
    if context.get("runAsUser") is None:
        return words
    group = f":{context['runAsGroup']}" if context.get("runAsGroup") is not None else ""
    return [*words, "--user", f"{context['runAsUser']}{group}"]
