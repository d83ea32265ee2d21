#!/usr/bin/env bash
# What is to be measured on one GPU, the most valuable first, in at most 9 minutes (LIMIT=540 seconds):
#   launch/gpu_bench.sh OUT [--config.KEY=VALUE ...]          overrides are of the steps and ablations
# OUT/report.md gets the table of each part when that part is done; what the time does not reach is named. ROWS="step-64
# learn" measures only those. CACHE=DIR keeps what was compiled: bring it to the next lease of the same machine.
# Without a network: packages that the machine lacks, as wheels in WHEELS=DIR (.whl), made beforehand elsewhere by
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d .whl array-record grain lz4 ml-collections ...
# TORCH_STEP="python time_step.py" is a command of your own that times the public PyTorch code's step of these shapes.
set -euo pipefail
mkdir -p "$1"
out=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
report=$out/report.md python=${PYTHON:-python3} limit=${LIMIT:-540} config=${CONFIG:-adult}
end=$(($(date +%s) + limit))
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=${CACHE:-$out/cache} # kernels that were tried for one program serve the others
ablations=${ABLATIONS:-flash,packed,exact_teachers,products,half_kernel,three_products,gradients,views_together,half_heads}
steps=(--steps="${TIMED:-12}" --warmup="${WARMUP:-3}")

wheels=("${WHEELS:-.whl}"/*.whl)
if [ -e "${wheels[0]}" ]; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
  PYTHONPATH+=:$site
fi

# measure NAME COMMAND...: its output goes to the report as it comes, in what is left of the time, if that is LEAST.
measure() {
  local name=$1 left=$((end - $(date +%s))) code=0
  shift
  if [ "$left" -lt "${LEAST:-45}" ]; then
    echo "$name: not reached in $limit s" | tee -a "$report"
    return
  fi
  printf '\n## %s\n\n    %s\n\n' "$name" "$*" >>"$report"
  if [ -n "${DRY_RUN:-}" ]; then return; fi
  timeout -k 5 "$left" "$@" >>"$report" 2>"$out/stderr.log" || code=$?
  if [ "$code" != 0 ]; then
    printf '\n%s: exit code %s\n\n' "$name" "$code" >>"$report"
    tail -n 5 "$out/stderr.log" | sed 's/^/    /' >>"$report"
  fi
  echo "$name: done after $SECONDS s, exit code $code"
}

# bench NAME COMMAND BATCH FLAGS...: a command of discovr_jax.benchmark.
bench() {
  measure "$1" "$python" -m discovr_jax.benchmark "$2" --config="$config" --config.batch_size="$3" "${steps[@]}" "${@:4}"
}

# Batch 48 is the row with a predecessor (docs/notes/speed.md). Each new batch size compiles for about two minutes.
for row in ${ROWS:-step-48 step-32 step-64 step-96 ablations parts learn torch}; do
  case $row in
    step-*) bench "$row" step "${row#step-}" --peak="${PEAK:-989}" --profile="$(mktemp -d)" "$@" ;;
    ablations) bench "$row" ablations "${ABLATIONS_BATCH:-32}" --only="$ablations" "$@" ;;
    parts) bench "$row" step "${ABLATIONS_BATCH:-32}" --parts "$@" ;;
    # phantom:long whole: simulates the videos, compiles (200 s on an H100), trains one seed for what is left but a
    # minute, and scores it.
    learn) LEAST=${LEARN_LEAST:-360} measure "$row" env ABLATIONS=0 SEEDS="${SEEDS:-0}" BATCH="${LEARN_BATCH:-256}" \
      PYTHON="$python" UNTIL=$((end - 60)) MEM_FRACTION=.75 launch/gpu_learn.sh "$out/learn" ;;
    torch) [ -z "${TORCH_STEP:-}" ] || measure "$row" bash -c "$TORCH_STEP" ;;
    *) echo "ROWS: there is no $row" >&2 && exit 2 ;;
  esac
done
