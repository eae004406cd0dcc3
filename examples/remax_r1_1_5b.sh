#!/usr/bin/env bash
# ReMax, one greedy response more per prompt, KL in the reward, on DeepSeek-R1-Distill-Qwen-1.5B and DeepScaleR: the paper's fig. 19. Started either way, on every node:
#   bash examples/remax_r1_1_5b.sh [key=value ...]
#   torchrun --nnodes 1 --nproc-per-node 4 examples/remax_r1_1_5b.sh [key=value ...]
""":"  # To bash this line is the command ":", which does nothing. To Python it opens a string, which ends two lines below.
exec bash "$(dirname "$0")/launch.sh" "$0" "$@"  # bash goes no further: torchrun starts Python on this very file
"""
if __name__ == "__main__":
    from launch import train

    train("configs/remax_r1_1_5b.yaml")
