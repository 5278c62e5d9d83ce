"""The deployment files, as far as they can be checked without a cluster: schema, structure, versions, script."""

import json
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private import util

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if re.match(r"[\w.-]+==", line)
)
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def rays_schema():
    return json.loads((Path(util.__file__).parents[1] / "ray-schema.json").read_text())


def containers(job):
    """The containers of a RayJob: the head's and each worker group's."""
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_cluster_file_keeps_to_rays_schema():
    (config,) = documents("ray-cluster.yaml")
    schema = rays_schema()
    jsonschema.validate(config, schema)
    util.validate_config(util.prepare_config(config))


def test_rays_schema_refuses_a_cluster_file_with_a_key_that_it_does_not_know():
    (config,) = documents("ray-cluster.yaml")
    schema = rays_schema()
    with pytest.raises(jsonschema.ValidationError, match="num_workers"):
        jsonschema.validate({**config, "num_workers": 2}, schema)


def test_every_worker_of_the_cluster_file_is_wanted_and_the_head_runs_no_trajectory():
    (config,) = documents("ray-cluster.yaml")
    workers = util.prepare_config(config)["available_node_types"]["local.cluster.node"]["min_workers"]
    assert workers == config["max_workers"] == len(config["provider"]["worker_ips"])
    assert any("--head" in line and "--num-cpus=0" in line for line in config["head_start_ray_commands"])
    assert any("--address=$RAY_HEAD_IP:6379" in line for line in config["worker_start_ray_commands"])


def test_the_rayjob_has_what_kuberay_asks_for():
    claim, job = documents("ray-job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    known = {
        "entrypoint",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    }
    assert set(job["spec"]) <= known
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == PINS["ray"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert set(group) == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
    for container in containers(job):
        assert container["resources"]["limits"] == container["resources"]["requests"]  # As KubeRay advises.
    assert len({container["image"] for container in containers(job)}) == 1
    volume = cluster["headGroupSpec"]["template"]["spec"]["volumes"][0]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_run_folder_lies_on_the_volume_and_the_script_is_where_the_image_has_it():
    job = documents("ray-job.yaml")[1]
    shell, script, folder, sweep = job["spec"]["entrypoint"].split()
    (mount,) = containers(job)[0]["volumeMounts"]
    assert shell == "sh"
    assert folder.startswith(f"{mount['mountPath']}/")
    assert (ROOT / "sweeps" / "builtin" / f"{sweep}.toml").is_file()
    workdir = re.search(r"^WORKDIR (\S+)", CONTAINERFILE, re.M)[1]
    assert script == f"{workdir}/run-sweep.sh"
    assert re.search(r"^COPY deploy/run-sweep\.sh \./$", CONTAINERFILE, re.M)


def test_the_image_has_the_pinned_ray_and_the_python_that_the_project_needs():
    bases = re.findall(r"rayproject/ray:([\d.]+)-py(\d)(\d+)", CONTAINERFILE + (DEPLOY / "README.md").read_text())
    assert len(bases) >= 3
    oldest = tuple(map(int, re.search(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()))
    for ray_version, major, minor in bases:
        assert ray_version == PINS["ray"]
        assert (int(major), int(minor)) >= oldest


def test_the_image_installs_the_packages_that_the_project_lists():
    copied = set(re.findall(r"^COPY (?!deploy)(.+) \S+$", CONTAINERFILE, re.M))
    files = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in files)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {pattern.rstrip("*") for pattern in packages["include"]} <= files
    assert {"pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]} <= files
    extras = set(",".join(re.findall(r"EXTRAS=([\w,]+)", CONTAINERFILE)).split(","))
    assert extras == {"cluster", "gpu"} <= set(PROJECT["optional-dependencies"])
    assert '--constraint constraints.txt ".[${EXTRAS}]"' in CONTAINERFILE


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_no_address_but_those_set_aside_for_documents_is_in_a_file(name):
    text = (DEPLOY / name).read_text()
    assert all(found.startswith("198.51.100.") for found in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text))
    assert "index-url" not in text


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_the_script_launches_a_new_sweep_and_resumes_one_that_is_there(tmp_path, begun):
    fake = tmp_path / "bin" / "towersweep"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "a folder"
    if begun:
        folder.mkdir()
        (folder / "sweep.toml").touch()
    command = ["sh", DEPLOY / "run-sweep.sh", folder, "digits", "--time-budget", "1h"]
    path = f"{fake.parent}:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)
    assert done.returncode == 7, done.stderr
    options = "--address|auto|--quiet|--time-budget|1h|"
    assert done.stdout == (f"resume|{folder}|{options}" if begun else f"launch|digits|--out|{folder}|{options}")


def test_the_options_of_the_script_are_those_of_both_commands():
    from sweeps.cli import cli

    for command in ("launch", "resume"):
        known = {option for param in cli.commands[command].params for option in param.opts}
        assert {"--address", "--quiet", "--time-budget"} <= known


def test_the_script_says_how_it_is_used():
    done = subprocess.run(["sh", DEPLOY / "run-sweep.sh", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: run-sweep.sh DIR SWEEP")
