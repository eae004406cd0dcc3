#!/usr/bin/env bash
# A run over two "hosts" on one machine: network namespaces with host names of their own, joined by a virtual cable, a rank on each.
#
#   sudo -E bash tools/two_hosts.sh torchrun|slurm EXAMPLE.sh|CONFIG.yaml [key=value ...]
#
# torchrun: NNODES, NODE_RANK and MASTER_ADDR as a person would set them. slurm: the variables that srun sets, and a `scontrol`
# that knows the two hosts. Needs root (ip netns) and iproute2; hosts share the file system, as cluster nodes do.
set -euo pipefail

mode=${1:?usage: two_hosts.sh torchrun|slurm EXAMPLE.sh|CONFIG.yaml [key=value ...]}
shift
case "$mode" in torchrun | slurm) ;; *) echo "two_hosts: error: $mode is neither torchrun nor slurm" >&2; exit 2 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
id=sppo$$
scratch=$(mktemp -d)

# shellcheck disable=SC2329 # called by the trap
clean_up() {
  for pid in "${hosts[@]:-}"; do [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; done
  for n in 0 1; do ip netns del "${id}n$n" 2>/dev/null || true; done
  rm -rf "$scratch"
}
hosts=()
trap clean_up EXIT

printf '#!/bin/sh\nprintf "10.99.0.1\\n10.99.0.2\\n"\n' >"$scratch/scontrol"
chmod +x "$scratch/scontrol"

ip netns add "${id}n0"
ip netns add "${id}n1"
ip link add "${id}v0" netns "${id}n0" type veth peer name "${id}v1" netns "${id}n1"
for n in 0 1; do
  ip -n "${id}n$n" addr add "10.99.0.$((n + 1))/24" dev "${id}v$n"
  ip -n "${id}n$n" link set "${id}v$n" up
  ip -n "${id}n$n" link set lo up
done

start() { # host number, then the command
  local n=$1
  shift
  case "$mode" in
    torchrun) where=(NNODES=2 "NODE_RANK=$n" MASTER_ADDR=10.99.0.1) ;;
    slurm) where=(SLURM_NNODES=2 "SLURM_NODEID=$n" "SLURM_JOB_NODELIST=host[0-1]" "PATH=$scratch:$PATH") ;;
  esac
  # shellcheck disable=SC2016 # the inner shell expands
  ip netns exec "${id}n$n" unshare --uts sh -c 'hostname "$0" && exec "$@"' "host$n" \
    env "${where[@]}" NPROC_PER_NODE=1 "GLOO_SOCKET_IFNAME=${id}v$n" "VLLM_HOST_IP=10.99.0.$((n + 1))" \
    MEGATRON_SPPO_CACHE="$scratch/cache$n" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" bash "$root/examples/launch.sh" "$@"
}

for n in 0 1; do
  start "$n" "$@" > >(sed "s/^/host$n| /") 2>&1 &
  hosts+=($!)
done
status=0
for pid in "${hosts[@]}"; do wait "$pid" || status=$?; done
exit "$status"
