"""The cases: one line for each."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.case import Case
from benchmarks.cases import (
    checked_inputs,
    docker_context,
    docker_run,
    fingerprint_large,
    fingerprint_tree,
    first_conda,
    first_environment,
    git_again,
    kubernetes_first_line,
    kubernetes_hundred,
    kubernetes_log,
    many_projects,
    one_step,
    restore,
    thousand_steps,
    tracked_run,
    twenty_at_once,
    validate_300,
    warm_check,
    warm_run,
)

CASES: Mapping[str, Case] = {
    "warm-run": warm_run,
    "first-environment": first_environment,
    "validate-300": validate_300,
    "many-projects": many_projects,
    "warm-check": warm_check,
    "twenty-at-once": twenty_at_once,
    "first-conda": first_conda,
    "one-step": one_step,
    "thousand-steps": thousand_steps,
    "fingerprint-tree": fingerprint_tree,
    "fingerprint-large": fingerprint_large,
    "restore": restore,
    "checked-inputs": checked_inputs,
    "docker-context": docker_context,
    "docker-run": docker_run,
    "tracked-run": tracked_run,
    "git-again": git_again,
    "kubernetes-first-line": kubernetes_first_line,
    "kubernetes-hundred": kubernetes_hundred,
    "kubernetes-log": kubernetes_log,
}
