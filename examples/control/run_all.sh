#!/usr/bin/env bash
# Five tasks, SPPO and PPO, five seeds each, cheapest task first. Give the same command again to go on after a stop.
# Usage: examples/control/run_all.sh [key=value ...]      e.g. run_dir=runs/control_lr rl.ppo.actor_lr=1e-3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS=1
for task in cartpole mountaincar pendulum lunarlander hopper; do
    nice -n 15 megatron-sppo control run "examples/control/$task.yaml" --algorithms sppo,ppo --seeds 0,1,2,3,4 "$@"
done
