#!/usr/bin/env bash
# Starts torchrun, once per node, on an example or on a config of your own. The examples call it themselves.
#   bash examples/launch.sh EXAMPLE.sh|CONFIG.yaml [key=value ...]
#
# Where and with whom, each from the environment, else from Slurm's variables, else one machine with all of its GPUs:
#   NNODES  NODE_RANK  MASTER_ADDR  MASTER_PORT  NPROC_PER_NODE
# WORKDIR is the folder that relative paths of the config start from (default: the present one).
# Everything else in the environment reaches the ranks as it is: NCCL_SOCKET_IFNAME, NCCL_IB_HCA, GLOO_SOCKET_IFNAME, NCCL_DEBUG ...
set -euo pipefail

fail() {
  echo "launch: error: $*" >&2
  exit 2
}

count_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l
  elif [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
    echo "$SLURM_GPUS_ON_NODE"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L | wc -l
  fi
}

program=("$(realpath "${1:?usage: launch.sh EXAMPLE.sh|CONFIG.yaml [key=value ...]}")")
case "$1" in *.yaml) program=(-m megatron_sppo.cli train "${program[0]}") ;; esac
shift
cd "${WORKDIR:-.}"
nnodes=${NNODES:-${SLURM_NNODES:-1}}
nproc=${NPROC_PER_NODE:-$(count_gpus)}
[ "${nproc:-0}" -gt 0 ] || fail "no GPU was found on $(hostname): set NPROC_PER_NODE to the number of ranks to start here"
command -v torchrun >/dev/null || fail "torchrun is not in PATH: activate the environment with megatron_sppo first"

# Compiled kernels are cached on the node's own disk: hundreds of ranks that lock files in a shared home stall each other.
cache=${MEGATRON_SPPO_CACHE:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/megatron_sppo_$UID}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}
export VLLM_CACHE_ROOT=${VLLM_CACHE_ROOT:-$cache/vllm}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

if [ "$nnodes" = 1 ]; then
  exec torchrun --standalone --nproc-per-node "$nproc" "${program[@]}" "$@"
fi

# Ranks are numbered node by node, so a TP group of neighbouring ranks stays inside a node.
node_rank=${NODE_RANK:-${SLURM_NODEID:-}}
master=${MASTER_ADDR:-}
if [ -z "$master" ] && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
fi
[ -n "$node_rank" ] || fail "NNODES=$nnodes but NODE_RANK is not set: give each node its number, 0 to $((nnodes - 1))"
[ -n "$master" ] || fail "NNODES=$nnodes but MASTER_ADDR is not set: give the host name of node 0"
exec torchrun --nnodes "$nnodes" --node-rank "$node_rank" --nproc-per-node "$nproc" \
  --master-addr "$master" --master-port "${MASTER_PORT:-29500}" "${program[@]}" "$@"
