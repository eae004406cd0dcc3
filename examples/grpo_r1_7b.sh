#!/usr/bin/env bash
# GRPO, 8 responses per prompt, on DeepSeek-R1-Distill-Qwen-7B and DAPO-17k: the paper's fig. 14. Started either way, on every node:
#   bash examples/grpo_r1_7b.sh [key=value ...]
#   torchrun --nnodes 1 --nproc-per-node 4 examples/grpo_r1_7b.sh [key=value ...]
""":"  # To bash this line is the command ":", which does nothing. To Python it opens a string, which ends two lines below.
exec bash "$(dirname "$0")/launch.sh" "$0" "$@"  # bash goes no further: torchrun starts Python on this very file
"""
if __name__ == "__main__":
    from launch import train

    train("configs/grpo_r1_7b.yaml")
