#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size, and starts again after a preemption.
#   TPU=discovr ZONE=us-central1-a TYPE=v5litepod-16 BUCKET=my-bucket launch/tpu_vm.sh --config=adult [--config.KEY=VALUE ...]
# Records: BUCKET/data (prepare them once, `--data_dir` on a mount of it). Results: BUCKET/runs/TPU.
# DRY_RUN=1 prints the commands. Needs gcloud, a project with TPU quota, and a bucket in the same region.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}" "${BUCKET:?bucket of data and results}"
TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite} # v5p: v2-alpha-tpuv5, v6e: v2-alpha-tpuv6e
SOURCE=${SOURCE:-git+https://github.com/OWNER/discovr_jax} # where pip finds this repository
SPOT=${SPOT:---spot}                    # SPOT= for a machine that is not taken away
ATTEMPTS=${ATTEMPTS:-100}

run() {
  printf '+ %q' "$1" && printf ' %q' "${@:2}" && echo
  [ -n "${DRY_RUN:-}" ] || "$@"
}
tpu() { run gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"; }
state() { gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)' 2>/dev/null || echo ABSENT; }

setup() {
  # Boot disks hold 100 GB: the records stay in the bucket, which is mounted. Checkpoints are renamed when they are whole,
  # which a mount of a flat bucket refuses without --rename-dir-limit.
  tpu ssh --worker=all --command="
    set -e
    command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy python3.11-venv; }
    python3.11 -m venv ~/venv
    ~/venv/bin/pip install -q 'discovr_jax[tpu] @ $SOURCE'
    command -v gcsfuse >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy gcsfuse; }
    mkdir -p ~/bucket && { mountpoint -q ~/bucket || gcsfuse --implicit-dirs --rename-dir-limit=100000 $BUCKET ~/bucket; }"
}

# The last line of a finished run holds the hash of its state; a preempted run saves and leaves with code 0 too.
finished() { run gcloud storage cat "gs://$BUCKET/runs/$TPU/metrics.jsonl" | tail -n 1 | grep -q state_sha256; }

flags=$(printf ' %q' "$@")
train="\$HOME/venv/bin/python -m discovr_jax.main --workdir=\$HOME/bucket/runs/$TPU --config.data.data_dir=\$HOME/bucket/data$flags"

for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
  found=ABSENT
  [ -n "${DRY_RUN:-}" ] || found=$(state)
  if [ "$found" != READY ]; then
    if [ "$found" != ABSENT ]; then tpu delete --quiet; fi
    # shellcheck disable=SC2086 # SPOT is one flag or none
    tpu create --accelerator-type="$TYPE" --version="$VERSION" $SPOT || { sleep 300; continue; }
  fi
  # The same command on every host; jax finds the others. It resumes from the newest checkpoint.
  failed=yes
  if setup && tpu ssh --worker=all --command="$train"; then failed=; fi
  if [ -n "${DRY_RUN:-}" ] || finished; then
    echo "done: gs://$BUCKET/runs/$TPU. Give the machine back with: gcloud compute tpus tpu-vm delete $TPU --zone=$ZONE"
    exit 0
  fi
  sleep 60
  if [ -n "$failed" ] && [ "$(state)" = READY ]; then
    echo "error: the run failed and the machine is still there: see the lines above" >&2
    exit 1
  fi
  echo "attempt $attempt was preempted; starting again" >&2
done
exit 1
