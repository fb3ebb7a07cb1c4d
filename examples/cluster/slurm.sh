#!/bin/bash
# Train on several machines of a SLURM cluster: sbatch slurm.sh DATA OUT
# SLURM starts one torchrun per machine; these find each other at the first machine of the job.
#SBATCH --job-name=vizsla
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120  # two minutes before the end: vizsla writes a checkpoint and stops
#SBATCH --requeue
set -euo pipefail

data="${1:?DATA, where all machines see it}"
out="${2:?OUT, the folder of the run}"
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"

# Each machine keeps its own cache, on its own disk.
export VIZSLA_HOME="${TMPDIR:-/tmp}/vizsla-$SLURM_JOB_ID"
# Where a machine has several networks, the one that joins them: export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29400" \
    --max-restarts 3 \
    -m vizsla train "$data" --out "$out" --epochs 5 --resume --checkpoint-every 300
