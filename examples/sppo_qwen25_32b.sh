#!/usr/bin/env bash
# SPPO on Qwen2.5-32B and DAPO-17k, critic Qwen2.5-7B, 8 nodes of 8 H100. Started either way, on every node:
#   bash examples/sppo_qwen25_32b.sh [key=value ...]
#   torchrun --nnodes 8 --nproc-per-node 8 examples/sppo_qwen25_32b.sh [key=value ...]
""":"  # To bash this line is the command ":", which does nothing. To Python it opens a string, which ends two lines below.
exec bash "$(dirname "$0")/launch.sh" "$0" "$@"  # bash goes no further: torchrun starts Python on this very file
"""
if __name__ == "__main__":
    from launch import train

    train("configs/sppo_qwen25_32b.yaml")
