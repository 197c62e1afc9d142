#!/bin/bash
# jcl train on a TPU pod slice over gcloud, the same command on all of its workers:
#
#   TPU=slice ZONE=us-central2-b TYPE=v4-32 CONFIG=clinc150:lamol WORKDIR=/mnt/jcl/runs/clinc150 \
#   SETUP='sudo mkdir -p /mnt/jcl && sudo mount 10.0.0.2:/jcl /mnt/jcl && pip install jcl[tpu]' \
#     launch/tpu/train.sh --config.stream.path=/mnt/jcl/data/clinc150 --config.train.fsdp=true
#
# SETUP is called on every worker of a new slice: it mounts a folder that all workers see and
# installs jcl. What follows the script's name are flags of jcl train. A spot slice that is
# preempted is made again, and the run goes on there. The slice stays when the script ends:
# gcloud compute tpus tpu-vm delete NAME --zone=ZONE.

set -eu
: "${TPU:?names the slice}" "${ZONE:?names its zone}" "${TYPE:?is its type, such as v4-32}"
: "${CONFIG:?names the config and the method, such as clinc150:lamol}"
: "${WORKDIR:?names the folder of the run, which all workers see}"
: "${SETUP:?is the command that prepares a worker}"
: "${RUNTIME:=tpu-ubuntu2204-base}" "${RESTARTS:=50}"

tpu_vm() { gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"; }
state() { tpu_vm describe --format='value(state)' 2>/dev/null || echo NONE; }

# Quoted for the shells of the workers. Each leaves its exit status behind, which ssh may hide.
run=$(printf '%q ' jcl train --config="$CONFIG" --workdir="$WORKDIR" --distributed "$@")
run="rm -f /tmp/jcl-status; $run; echo \$? | tee /tmp/jcl-status; exit \$(cat /tmp/jcl-status)"

for ((life = 0; life <= RESTARTS; life++)); do
  if [ "$(state)" != READY ]; then  # not made yet, or preempted
    tpu_vm delete --quiet 2>/dev/null || true
    until tpu_vm create --accelerator-type="$TYPE" --version="$RUNTIME" --spot; do
      sleep "${WAIT:-60}"  # there is no capacity now
    done
    tpu_vm ssh --worker=all --command="$SETUP"
  fi
  if tpu_vm ssh --worker=all --command="$run"; then
    exit 0
  fi
  # 1 and 2: an error that another start would not mend. All else, and no answer, can go on.
  status=$(tpu_vm ssh --worker=0 --command='cat /tmp/jcl-status' 2>/dev/null || echo 75)
  case $status in
    1 | 2) exit "$status" ;;
  esac
done
echo "the run was started again $RESTARTS times; not once more" >&2
exit 75
