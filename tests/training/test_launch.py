"""The files that start a run on a cluster: what they call is there, under the names that their schedulers know."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from rsiccllm.shipped import recipes_folder

LAUNCH = recipes_folder() / "launch"

TOOLS = {"scontrol": 'echo "node7"; echo "node8"', "srun": '"$@"', "torchrun": 'printf "%s\\n" "$@" > "$CALLED"'}
"""Stand-ins for what only a cluster has: they print what they are asked, or run it."""


@pytest.mark.parametrize(("recipe", "stage"), [("recipes/qwen2_5_vl_7b_full_fsdp.yaml", "sft"),
                                               ("recipes/qwen2_5_vl_7b_lora_dnpo.yaml", "dnpo")])  # fmt: skip
def test_the_slurm_script_calls_torchrun_over_all_nodes(tmp_path: Path, recipe: str, stage: str) -> None:
    for name, body in TOOLS.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    called = tmp_path / "called"
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLED": str(called), "SLURM_JOB_ID": "12",
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip
    subprocess.run(["bash", LAUNCH / "slurm.sh", recipe, "max_steps=3"], env=environment, check=True)
    words = called.read_text(encoding="utf-8").split("\n")[:-1]
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("--nproc_per_node") + 1] == "8"
    assert words[words.index("--rdzv_endpoint") + 1] == "node7:29500"
    assert words[-6:] == ["-m", "rsiccllm.cli", "train", stage, recipe, "max_steps=3"]
    bare = subprocess.run(["bash", LAUNCH / "slurm.sh"], env=environment, capture_output=True, text=True, check=False)
    assert bare.returncode != 0
    assert "expected a recipe" in bare.stderr


def test_the_kubernetes_job_is_one_that_the_operator_takes() -> None:
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["minReplicas"]
    pod = worker["template"]["spec"]
    container = pod["containers"][0]
    assert container["name"] == "pytorch"
    assert int(job["spec"]["nprocPerNode"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert container["command"][:5] == ["torchrun", "-m", "rsiccllm.cli", "train", "sft"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_accelerate_reads_the_deepspeed_configuration() -> None:
    """accelerate's own reader, which refuses a field that it does not know. DeepSpeed itself is not installed here."""
    config = ClusterConfig.from_yaml_file(str(LAUNCH / "zero3.yaml"))
    assert str(config.distributed_type.value) == "DEEPSPEED"
    assert config.deepspeed_config["zero_stage"] == 3
    assert config.deepspeed_config["zero3_save_16bit_model"] is True, "else the finished model would hold no weights"
