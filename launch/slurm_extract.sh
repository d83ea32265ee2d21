#!/usr/bin/env bash
# Features of many videos under SLURM, a shard of the table per task of the array:
#   sbatch --array=1-8 launch/slurm_extract.sh --checkpoint=runs/adult --input=/shared/videos --output=/shared/f.parquet
# The task that ends last writes the table. Input and output must lie on a file system that all nodes see.
# Tasks that failed: SHARDS=8 sbatch --array=3,5 with the same arguments; or all again, what is done is not done twice.
#SBATCH --job-name=discovr-extract
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=discovr-extract-%A-%a.log
#SBATCH --open-mode=append
set -euo pipefail

PYTHON=${PYTHON:-python}
SHARDS=${SHARDS:-${SLURM_ARRAY_TASK_MAX:?start it with sbatch --array=1-N}}

command=("$PYTHON" -u -m discovr_jax.extract --shard="$SLURM_ARRAY_TASK_ID/$SHARDS"
  --workers="${SLURM_CPUS_PER_TASK:-4}" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
