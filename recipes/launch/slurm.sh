#!/bin/bash
# One node of 8 GPUs:   sbatch recipes/launch/slurm.sh recipes/qwen2_5_vl_7b_full_fsdp.yaml [field=value ...]
# Several:              sbatch --nodes 4 recipes/launch/slurm.sh ...
# A job that is stopped and submitted again goes on from its newest checkpoint; `out` lies where every node sees it.
#SBATCH --job-name=rsiccllm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=rsiccllm-%j.log
set -euo pipefail
recipe=${1:?expected a recipe}
shift
stage=sft
[[ $recipe == *dnpo* ]] && stage=dnpo
export OMP_NUM_THREADS=8
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d --rdzv_endpoint "${nodes[0]}:29500" -m rsiccllm.cli train "$stage" "$recipe" "$@"
