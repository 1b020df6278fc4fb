#!/usr/bin/env bash
# Run a study on a Ray cluster within a Slurm allocation. A job that is preempted, or that reaches its time limit, is
# queued again and goes on from the last record and the last checkpoints.
#
#     sbatch --nodes=4 --cpus-per-task=16 --gpus-per-node=2 deploy/slurm.sh my-photos.yaml --jobs 8
#
# Everything after the script is given to `run-study`, with `--on ray`. Python is the one in PATH: activate the virtual
# environment first, on a file system that all nodes see. The login of the tracking server and the keys of its store are
# read from CNNSTUDY_SECRETS (~/.config/cnnstudy/secrets.env: lines NAME=VALUE), which only you can read, and only the
# driver gets them: Slurm writes the environment of `sbatch` to disk.
#SBATCH --job-name=cnnstudy
#SBATCH --output=cnnstudy-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120
set -euo pipefail

: "${SLURM_JOB_ID:?this is a job of Slurm: sbatch deploy/slurm.sh STUDY}"
[ $# -gt 0 ] || { echo "usage: sbatch deploy/slurm.sh STUDY [options of run-study]" >&2; exit 2; }
secrets=${CNNSTUDY_SECRETS:-$HOME/.config/cnnstudy/secrets.env}
address=$SLURMD_NODENAME:$((20000 + SLURM_JOB_ID % 20000))
nodes=$SLURM_JOB_NUM_NODES
driver='' cluster='' sentinel='' stopping=''

# what the nodes must not get
for name in $(compgen -e); do
    case $name in MLFLOW_* | AWS_*) unset "$name" ;; esac
done

# shellcheck disable=SC2317 # a trap calls it
stop() { # at Slurm's SIGTERM: before the time limit, of a preemption, or of scancel, which ends the job for good
    stopping=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
    stopping=${stopping:-UNKNOWN}
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap stop TERM
# shellcheck disable=SC2086 # each is one number or nothing
trap 'kill -TERM $cluster $sentinel 2>/dev/null || true' EXIT

# one node of Ray on each node of Slurm, the head here; a node that is lost does not end the others
# apart from other jobs of these nodes; the path of a socket in it must be short
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID CNNSTUDY_RAY_ADDRESS=$address
export RAY_raylet_start_wait_time_s=${RAY_raylet_start_wait_time_s:-120}
# shellcheck disable=SC2016 # the variables are those of each node
srun --no-kill --kill-on-bad-exit=0 --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 bash -c '
    gpus=${CUDA_VISIBLE_DEVICES:+$(tr "," "\n" <<<"$CUDA_VISIBLE_DEVICES" | wc -l)}
    own=(--num-cpus="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE}}" --num-gpus="${gpus:-0}" --disable-usage-stats --block)
    place=(--address="$CNNSTUDY_RAY_ADDRESS")
    if [ "$SLURMD_NODENAME" = "${CNNSTUDY_RAY_ADDRESS%:*}" ]; then
        place=(--head --port="${CNNSTUDY_RAY_ADDRESS#*:}" --include-dashboard=false)
    fi
    # the head may not be there yet, and on a busy node Ray gives up early
    until ray start "${place[@]}" "${own[@]}"; do sleep 5; done' &
cluster=$!
# at a preemption Slurm ends the steps of a job and tells its script nothing: this step ends at once, Ray's takes longer
srun --overlap --nodes=1 --ntasks=1 sleep infinity &
sentinel=$!

count='import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))'
ready=0
for _ in $(seq 150); do
    [ -z "$stopping" ] || break
    kill -0 "$cluster" 2>/dev/null || { echo "deploy/slurm.sh: Ray did not start; see above" >&2; exit 1; }
    ready=$(python -c "$count" "$address" 2>/dev/null) || ready=0
    [ "$ready" -lt "$nodes" ] || break
    sleep 2
done
[ "$ready" -gt 0 ] || [ -n "$stopping" ] || { echo "deploy/slurm.sh: no Ray at $address" >&2; exit 1; }
echo "deploy/slurm.sh: $ready of $nodes nodes are ready; others join later (start ${SLURM_RESTART_COUNT:-0})"

code=0
if [ -z "$stopping" ]; then
    # Slurm has ended the job's earlier driver, wherever it was
    again=()
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || again=(--take-over)
    (
        set -a
        # shellcheck source=/dev/null
        [ ! -r "$secrets" ] || . "$secrets"
        export RAY_ADDRESS=$address
        exec python -m cnnstudy run-study "$@" --on ray "${again[@]}"
    ) &
    driver=$!
    [ -z "$stopping" ] || kill -TERM "$driver"
    while kill -0 "$driver" 2>/dev/null; do # a signal ends a wait, too
        if [ -n "$stopping" ]; then
            wait "$driver" || true
        else
            wait -n "$driver" "$sentinel" || true
            kill -0 "$sentinel" 2>/dev/null || ! kill -0 "$driver" 2>/dev/null || stop
        fi
    done
    wait "$driver" || code=$?
fi
if [ "$stopping" = RUNNING ]; then # else it was cancelled, or Slurm itself queues it again
    echo "deploy/slurm.sh: stopped by Slurm; queued again"
    scontrol requeue "$SLURM_JOB_ID"
elif [ -n "$stopping" ]; then
    echo "deploy/slurm.sh: stopped by Slurm ($stopping)"
fi
exit "$code"
