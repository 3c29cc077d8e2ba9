"""What `--help` shows of each command: a command line, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Example = tuple[str, str]

# What `buildrun --help` begins with.
USES: Sequence[Example] = (
    ("buildrun . -P alpha=0.5", "run the project here: only what changed since runs again"),
    ("buildrun validate", "check its files before a commit"),
    ("buildrun run . --locked", "the same packages on every machine, as CI wants them"),
)

EXAMPLES: Mapping[str, Sequence[Example]] = {
    "run": (
        ("buildrun .", "the entry point main of the project here"),
        ("buildrun . -e train -P alpha=0.5", "another one, with a parameter"),
        ("buildrun . -j 4 --keep-going", "four steps at once, as far as they go"),
        ("buildrun . --watch", "again whenever an input changes"),
    ),
    "plan": (
        ("buildrun plan . -e train", "what would run, and why"),
        ("buildrun plan . --format mermaid", "a diagram of the steps"),
    ),
    "build": (
        ("buildrun build .", "the environment, and where it is"),
        ("buildrun build . -b docker", "an image with the environment"),
    ),
    "lock": (
        ("buildrun lock .", "pin all packages with their hashes"),
        ("buildrun lock . --check", "whether the lock is fresh, for CI"),
        ("buildrun lock . --update", "the newest versions that fit"),
        ("buildrun lock . --export cyclonedx", "what is locked, as an SBOM"),
    ),
    "ls": (
        ("buildrun ls", "of the project here"),
        ("buildrun ls . --format json", "the same for programs"),
    ),
    "inputs": (
        ("buildrun inputs . -e train", "the files that it is made from"),
        ("buildrun inputs . --suggest", "run main, and see what it reads and makes"),
        ("buildrun inputs . --suggest --write", "the same, put into the MLproject"),
    ),
    "runs": (
        ("buildrun runs ls -n 5", "the latest five"),
        ("buildrun runs show", "how the latest went"),
        ("buildrun runs logs 3f2a train", "what its step train wrote"),
    ),
    "cache": (
        ("buildrun cache info", "where it is, and how much it holds"),
        ("buildrun cache gc --max-size 20G", "remove what was not used for longest"),
    ),
    "validate": (
        ("buildrun validate", "the project here"),
        ("buildrun validate a b/MLproject", "several"),
        ("buildrun validate --strict", "warnings fail as well"),
    ),
    "init": (
        ("buildrun init", "from the scripts that are here"),
        ("buildrun init --template sklearn", "a project to start from"),
        ("buildrun init --from dvc.yaml", "take over a DVC pipeline"),
    ),
    "schema": (
        ("buildrun schema MLproject", "for editors that check YAML as you type"),
        ("buildrun schema python_env", "of another file"),
    ),
    "completion": (
        ('eval "$(buildrun completion bash)"', "in ~/.bashrc; zsh: in ~/.zshrc, behind compinit"),
        ("buildrun completion fish | source", "in ~/.config/fish/config.fish"),
    ),
}
