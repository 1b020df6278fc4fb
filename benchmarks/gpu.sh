#!/usr/bin/env bash
# Show on a GPU what CPUs can't: whether networks compute the same there, and how fast. 8 minutes.
#   benchmarks/gpu.sh [FOLDER] [--minutes 8]    FOLDER: for records and gpu.md, the table; default: gpu-results
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=gpu-results
case "${1:-}" in '' | --*) ;; *) folder=$1 && shift ;; esac
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || {
    echo "benchmarks/gpu.sh: nvidia-smi finds no GPU; this needs one of NVIDIA and its driver" >&2
    exit 2
}
exec python "$here/gpu.py" "$folder" "$@"
