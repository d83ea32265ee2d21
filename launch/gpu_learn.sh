#!/usr/bin/env bash
# Features against clips seen, on one GPU, in at most 9 minutes: launch/gpu_learn.sh OUT [VIDEOS]
# UNTIL (Unix time; 8 minutes from now): when the trainings stop, however long the simulation took. Scores come after it.
# Several trainings share the GPU; each row of OUT/rows.jsonl is written as it is done (discovr_jax/benchmark/learning.py).
set -euo pipefail
out=$1 videos=${2:-/tmp/gpu_learn_videos} until=${UNTIL:-$(($(date +%s) + 480))}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2
export XLA_PYTHON_CLIENT_PREALLOCATE=true XLA_PYTHON_CLIENT_MEM_FRACTION=${MEM_FRACTION:-.15}
python=${PYTHON:-python3}
sizes=(--train="${TRAIN:-2000}" --val="${VAL:-400}" --test="${TEST:-1200}")
common=(--config.batch_size="${BATCH:-256}" --config.model.dtype="${DTYPE:-bfloat16}"
  --config.model.attention=reference
  --config.duration="${STEPS:-2000} steps" --labels="${LABELS:-1000}")
mkdir -p "$out"
learn() {
  local name=$1
  shift
  "$python" -m discovr_jax.benchmark.learning --videos="$videos" "${sizes[@]}" --output="$out" --name="$name" "${common[@]}" "$@" \
    >"$out/$name.log" 2>&1 || { echo "$name failed:" && tail -n 3 "$out/$name.log"; }
}
# First the videos, then the trainings: beside four compilations the simulation took ten times as long (H100, 16 cores).
[ -f "$videos/complete" ] || "$python" -m tfds_builders.echo_phantom.frames --output="$videos" "${sizes[@]}" --workers="${WORKERS:-$(nproc)}" >"$out/simulate.log" 2>&1
seconds=$((until - $(date +%s)))
if [ "$seconds" -le 0 ]; then
  echo "no time is left to train: the simulation took it" >&2
  exit 1
fi
common+=(--seconds="$seconds")
for seed in ${SEEDS:-0 1 2}; do
  learn "recipe-$seed" --config.seed="$seed" &
done
if [ "${ABLATIONS:-1}" = 1 ]; then
  learn phase_alone --config.loss.scd=0 --config.loss.amplitude=0 &
  learn without_phase --config.loss.phase=0 --config.loss.amplitude=0 --config.loss.vid=1 --config.loss.img=1 --config.loss.scd=1 &
fi
wait
cat "$out/rows.jsonl"
