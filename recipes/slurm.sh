#!/bin/bash
# One node of 8 GPUs:   sbatch recipes/slurm.sh recipes/qwen2_5_vl_7b_full_fsdp.yaml [field=value ...]
# A job that is stopped and submitted again goes on from its newest checkpoint.
#SBATCH --job-name=rsiccllm
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=rsiccllm-%j.log
set -euo pipefail
recipe=${1:?expected a recipe}
shift
stage=sft
[[ $recipe == *dnpo* ]] && stage=dnpo
export OMP_NUM_THREADS=8
srun torchrun --nnodes 1 --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" -m rsiccllm.cli train "$stage" "$recipe" "$@"
