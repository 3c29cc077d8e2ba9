"""What the Jobs API takes: the keys of databricks-sdk 0.162.0, and the reference's `tags`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from databricks_http import Refused

if TYPE_CHECKING:
    from databricks_workspace import Workspace


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SUBMIT = _words("""
    access_control_list budget_policy_id email_notifications environment_variables
    environments git_source health idempotency_token notification_settings
    performance_target queue run_as run_name tags tasks timeout_seconds usage_policy_id
    webhook_notifications
""")
_TASK = _words("""
    compute depends_on description disable_auto_optimization email_notifications
    environment_key environment_variables_key existing_cluster_id for_each_task health
    libraries max_retries min_retry_interval_millis new_cluster notebook_task
    notification_settings python_wheel_task retry_on_timeout run_if spark_jar_task
    spark_python_task spark_submit_task task_key timeout_seconds webhook_notifications
""")
# A body of API 2.0 is a task itself; the task that MLflow submits is in no newer version.
_OLD_TASK = (_TASK - {"task_key", "depends_on", "environment_key"}) | {"shell_command_task"}
_CLUSTER = _words("""
    apply_policy_default_values autoscale autotermination_minutes aws_attributes
    azure_attributes cluster_log_conf cluster_name custom_tags data_security_mode
    docker_image driver_instance_pool_id driver_node_type_flexibility driver_node_type_id
    enable_elastic_disk enable_local_disk_encryption gcp_attributes init_scripts
    instance_pool_id is_single_node kind node_type_id num_workers policy_id
    remote_disk_throughput runtime_engine single_user_name spark_conf spark_env_vars
    spark_version ssh_public_keys total_initial_remote_disk_size use_ml_runtime
    worker_node_type_flexibility workload_type
""")
_LIBRARY = _words("""
    cran egg jar maven pypi requirements whl
""")
_ENVIRONMENT = _words("""
    base_environment client dependencies environment_version java_dependencies
""")


def check_submitted(workspace: Workspace, body: Any, version: str) -> None:
    """Refuse a body of `runs/submit`; version: of the API."""
    if not isinstance(body, dict):
        raise invalid("Expected an object")
    tasks = body.get("tasks")
    if version == "2.0" and tasks is None:
        _known(workspace, body, (_SUBMIT - {"tasks", "environments"}) | _OLD_TASK, "")
        _check_task(workspace, body, ())
        return
    _known(workspace, body, _SUBMIT, "")
    if len(body.get("idempotency_token") or "") > 64:
        raise invalid("idempotency_token must have at most 64 characters")
    if not tasks:
        raise invalid("At least one task must be specified")
    if len(tasks) > 1:
        raise invalid("This stand-in runs one task")
    _known(workspace, tasks[0], _TASK, "tasks[0].")
    if not tasks[0].get("task_key"):
        raise invalid("Missing required field: task_key")
    keys = [_check_environment(workspace, each) for each in body.get("environments") or ()]
    _check_task(workspace, tasks[0], keys)


def invalid(message: str) -> Refused:
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def _known(
    workspace: Workspace, given: Mapping[str, Any], known: Collection[str], where: str
) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown and not workspace.lenient:
        raise invalid(f"Unknown field: {where}{unknown[0]}")


def _check_task(workspace: Workspace, task: Mapping[str, Any], environments: Any) -> None:
    python = task.get("spark_python_task")
    if python is None and task.get("shell_command_task") is None:
        raise invalid("A task must be specified")
    if python is not None:
        _check_python(python)
    _check_compute(workspace, task, environments)
    for library in task.get("libraries") or ():
        _known(workspace, library, _LIBRARY, "libraries.")
        if "pypi" in library and not isinstance(library["pypi"].get("package"), str):
            raise invalid("Missing required field: libraries.pypi.package")


def _check_python(python: Mapping[str, Any]) -> None:
    if not str(python.get("python_file", "")).startswith(("/Volumes/", "/Workspace/", "dbfs:/")):
        raise invalid("python_file must be an absolute path")
    parameters = python.get("parameters") or []
    if not all(isinstance(each, str) for each in parameters):
        raise invalid("parameters must be strings")
    if len(json.dumps(parameters)) > 10_000:
        raise invalid("The size of parameters exceeds 10000 bytes")


def _check_compute(workspace: Workspace, task: Mapping[str, Any], environments: Any) -> None:
    names = ("new_cluster", "existing_cluster_id", "environment_key")
    given = [name for name in names if task.get(name) is not None]
    if len(given) != 1:
        raise invalid("One of job_cluster_key, new_cluster, or existing_cluster_id is required")
    if given == ["new_cluster"]:
        _check_cluster(workspace, task["new_cluster"])
    elif given == ["existing_cluster_id"]:
        if task["existing_cluster_id"] not in workspace.clusters:
            raise invalid(f"Cluster {task['existing_cluster_id']} does not exist")
    elif task["environment_key"] not in environments:
        raise invalid(f"The environment key {task['environment_key']} is not defined")
    elif task.get("libraries"):
        raise invalid("Libraries field is not supported for serverless task")


def _check_cluster(workspace: Workspace, cluster: Mapping[str, Any]) -> None:
    _known(workspace, cluster, _CLUSTER, "new_cluster.")
    if not cluster.get("spark_version"):
        raise invalid("Missing required field: settings.cluster_spec.new_cluster.spark_version")
    if not any(cluster.get(name) for name in ("node_type_id", "instance_pool_id", "policy_id")):
        raise invalid("Missing required field: settings.cluster_spec.new_cluster.node_type_id")


def _check_environment(workspace: Workspace, given: Mapping[str, Any]) -> str:
    _known(workspace, given, ("environment_key", "spec"), "environments.")
    _known(workspace, given.get("spec") or {}, _ENVIRONMENT, "environments.spec.")
    return str(given["environment_key"])
