"""What is deployed with: the cluster's YAML, Serve's, Kubernetes', each as the program that reads it reads it."""

from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import pytest
import yaml
from ray import serve
from ray._common.utils import import_attr
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from evalservice.settings import Settings
from tests.conftest import ROOT

FLAGS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def read(name: str) -> Any:
    """A YAML file of the repository."""
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """ray-cluster.yaml as `ray up` prepares it."""
    prepared: dict[str, Any] = prepare_config(read("ray-cluster.yaml"))
    return prepared


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    """The RayService's spec."""
    spec: dict[str, Any] = read("deploy/rayservice.yaml")["spec"]
    return spec


@pytest.fixture(scope="module")
def groups(service: dict[str, Any]) -> dict[str, Any]:
    """Node types of the RayService as KubeRay's autoscaler sees them."""
    resource = {
        "metadata": {"name": "evalservice", "namespace": "default"},
        "spec": copy.deepcopy(service["rayClusterConfig"]),
    }
    derived: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    return derived


def test_the_cluster_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_the_cluster_has_workers_with_and_without_gpus_and_none_of_them_when_idle(cluster: dict[str, Any]) -> None:
    types = dict(cluster["available_node_types"])
    head = types.pop(cluster["head_node_type"])
    assert {name: kind["resources"].get("GPU", 0) for name, kind in types.items()} == {"cpu": 0, "gpu": 1}
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert head["resources"]["CPU"] == 0  # what a run does starves no API


def test_every_node_of_the_cluster_installs_this_project_and_rays_of_one_version(cluster: dict[str, Any]) -> None:
    everywhere = [cluster["head_setup_commands"], cluster["worker_setup_commands"]]
    everywhere += [
        kind["worker_setup_commands"]
        for kind in cluster["available_node_types"].values()
        if kind.get("worker_setup_commands")
    ]
    assert len(everywhere) == 3
    assert all("evalservice-*.whl" in " ".join(commands) for commands in everywhere)
    pinned = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    named = re.findall(r"(?:rayproject/ray:|RAY=|rayVersion: |serve\]==)(\d+\.\d+\.\d+)", _all_text())
    assert set(named) == set(pinned)


def _all_text() -> str:
    files = ("ray-cluster.yaml", "deploy/rayservice.yaml", "deploy/Dockerfile")
    return "\n".join((ROOT / name).read_text() for name in files)


def test_every_ray_of_the_cluster_starts_with_the_token_the_flags_and_the_settings(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert commands[-1].startswith(". ~/evalservice/deploy/env.sh &&")
    environment = _sourced("deploy/env.sh")
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"].endswith("/evalservice/deploy/secrets/auth_token")
    assert environment.items() >= FLAGS.items()


def test_the_settings_of_a_cluster_are_variables_that_evalservice_reads(service: dict[str, Any]) -> None:
    known = {field.validation_alias for field in Settings.model_fields.values()}
    example = re.findall(r"^(\w+)=", (ROOT / "deploy/cluster.env.example").read_text(), re.MULTILINE)
    head = service["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    inside = [each["name"] for each in head["env"] if not each["name"].startswith("RAY_")]
    assert set(example) | set(inside) <= known
    assert {"DATABASE_URL", "EVALSERVICE_SECRET_KEY", "EVALSERVICE_DATA_ROOT"} <= set(example)


def _sourced(name: str) -> dict[str, str]:
    """What a shell script exports; the secrets that it reads are not there."""
    script = (ROOT / name).read_text().replace('. "$HOME', ': "$HOME')
    shell = ["env", "-i", "HOME=/home/ray", "sh", "-c", f"{script}\nenv"]
    out = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


def test_secrets_of_a_cluster_are_never_committed() -> None:
    ignored = subprocess.run(["git", "check-ignore", "deploy/secrets/cluster.env"], cwd=ROOT, check=False)
    if (ROOT / ".git").exists():
        assert ignored.returncode == 0


def test_serve_takes_its_configuration_and_finds_the_application() -> None:
    config = ServeDeploySchema.model_validate(read("deploy/serve.yaml"))
    [application] = config.applications
    found = import_attr(application.import_path)
    assert isinstance(found, serve.Application)
    assert {deployment.name for deployment in application.deployments} == {"api", "supervisor"}
    assert config.http_options.request_timeout_s


@pytest.mark.parametrize("name", ["api", "supervisor"])
def test_a_deployment_starts_the_new_before_it_stops_the_old_and_lets_that_finish(name: str) -> None:
    from cluster.serving import Api, RunSupervisor

    code = {"api": Api, "supervisor": RunSupervisor}[name]
    [application] = read("deploy/serve.yaml")["applications"]
    [given] = [each for each in application["deployments"] if each["name"] == name]
    options = given.get("ray_actor_options", {})
    effective = code.options(**{key: value for key, value in given.items() if key != "ray_actor_options"})
    config = effective._deployment_config
    assert config.max_surge_percent == 100  # with one replica and 0, everybody waits for the new one
    assert config.graceful_shutdown_timeout_s >= 30
    assert config.health_check_timeout_s <= 30
    assert (code.ray_actor_options["num_cpus"], options["num_cpus"]) == (0, 0)  # the runs need the CPUs
    assert options["resources"] == {"service": 1}  # on no worker, which it would keep alive


def test_kubernetes_serves_what_serve_deploy_does(service: dict[str, Any]) -> None:
    assert yaml.safe_load(service["serveConfigV2"]) == read("deploy/serve.yaml")


def test_kubernetes_scales_workers_to_zero_with_autoscaler_v2(service: dict[str, Any], groups: dict[str, Any]) -> None:
    cluster = service["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert {name: (group["min_workers"], group["resources"].get("GPU", 0)) for name, group in groups.items()} == {
        "headgroup": (0, 0),
        "service": (2, 0),
        "cpu": (0, 0),
        "gpu": (0, 1),
    }


def test_kubernetes_has_room_for_old_and_new_replicas_at_once(groups: dict[str, Any]) -> None:
    [application] = read("deploy/serve.yaml")["applications"]
    api, supervisor = application["deployments"]
    needed = 2 * (api["autoscaling_config"]["max_replicas"] + supervisor["num_replicas"])
    assert groups["service"]["resources"]["service"] * groups["service"]["min_workers"] >= needed
    assert read("ray-cluster.yaml")["available_node_types"]["head"]["resources"]["service"] >= needed


def test_kubernetes_sends_requests_to_pods_that_are_ready_and_lets_them_drain(service: dict[str, Any]) -> None:
    assert service["excludeHeadPodFromServeSvc"]
    by_name = {group["groupName"]: group for group in service["rayClusterConfig"]["workerGroupSpecs"]}
    pod = by_name["service"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8000}
    [application] = read("deploy/serve.yaml")["applications"]
    assert pod["terminationGracePeriodSeconds"] > application["deployments"][0]["graceful_shutdown_timeout_s"]
    head = service["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "readinessProbe" not in head  # Serve is deployed only once the head is ready


def test_every_pod_has_the_secrets_by_reference_the_token_and_the_flags(service: dict[str, Any]) -> None:
    cluster = service["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "evalservice-ray-token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "evalservice"}}]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment.items() >= FLAGS.items()
        assert not {"DATABASE_URL", "EVALSERVICE_SECRET_KEY"} & environment.keys()
