#!/usr/bin/env bash
# The study of docs/notes/results.md: every method at every seed, the same recipe and steps, one run a core.
#   launch/study.sh [--config.KEY=VALUE ...]        into ${RUNS:-runs}/study/METHOD-SEED
# Stop it at any time, with Ctrl-C or SIGTERM to its whole process group: the same command resumes what was begun and
# passes over what is finished. METHODS (of configs/baselines.py), SEEDS and JOBS (runs at once, at most one a core) may
# be set; DRY_RUN=1 prints the commands.
set -euo pipefail

METHODS=${METHODS:-recipe discovr reference_pairing image_video video_only}
SEEDS=${SEEDS:-0 1 2}
export RUNS=${RUNS:-runs} PYTHON=${PYTHON:-.venv/bin/python} DRY_RUN=${DRY_RUN:-}

run() {
  local method=${1%-*} seed=${1##*-} workdir=$RUNS/study/$1
  shift
  local command=("$PYTHON" -u -m discovr_jax.main --workdir="$workdir"
    --config="configs/baselines.py:method=$method,recipe=phantom_long" --config.seed="$seed" "$@")
  if [ -n "$DRY_RUN" ]; then
    printf '%q ' "${command[@]}"
    echo
  elif ! tail -n 1 "$workdir/metrics.jsonl" 2>/dev/null | grep -q state_sha256; then
    mkdir -p "$workdir"
    taskset -c "$SLOT" "${command[@]}" >>"$workdir/log.txt" 2>&1
  fi
}
export -f run

for seed in $SEEDS; do
  for method in $METHODS; do
    echo "$method-$seed"
  done
done | xargs -P "${JOBS:-2}" --process-slot-var=SLOT -I{} bash -c 'run "$@"' study {} "$@"
