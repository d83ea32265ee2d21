#!/usr/bin/env bash
# Trains on GPUs under SLURM:  sbatch launch/slurm.sh --config=adult --config.data.data_dir=/shared/data
# One task a GPU: jax reads from SLURM who is who. The workdir must lie on a file system that all nodes see.
#SBATCH --job-name=discovr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=discovr-%j.log
#SBATCH --open-mode=append
set -euo pipefail

WORKDIR=${WORKDIR:-runs/${SLURM_JOB_NAME:-discovr}}
PYTHON=${PYTHON:-python}
# Two nodes are two "slices": only gradients cross the network between them.
NODES=${SLURM_JOB_NUM_NODES:-1}

command=("$PYTHON" -u -m discovr_jax.main --workdir="$WORKDIR" --config.mesh.slices="$NODES"
  --config.data.workers=2 "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' srun --kill-on-bad-exit=1 "${command[@]}"
  echo
  exit 0
fi

# TERM comes two minutes before the time is up (and on preemption): the run saves and leaves with code 0, and the job
# goes back into the queue, unless the last line of metrics.jsonl says that it is finished.
srun --kill-on-bad-exit=1 "${command[@]}"
if ! tail -n 1 "$WORKDIR/metrics.jsonl" | grep -q state_sha256; then
  scontrol requeue "$SLURM_JOB_ID"
fi
