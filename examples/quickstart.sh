#!/usr/bin/env bash
# From nothing to a language model that got better at arithmetic by sequence-level PPO, on two CPU cores.
#
#   bash examples/quickstart.sh [--run-dir DIR] [--seed N] [key=value ...]
#
# Makes its own environment (.venv) if there is none, builds a small Qwen2 model and a verifiable task, warm-starts the
# model by supervised fine-tuning, trains it with SPPO on two ranks and writes DIR/summary.json and DIR/report.html.
# key=value goes to the SPPO run, for example steps=40 or actor.optimizer.lr=1e-4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run_dir=runs/quickstart
seed=1
overrides=()
while [ $# -gt 0 ]; do
  case "$1" in
    --run-dir) run_dir=${2:?--run-dir needs a folder}; shift 2 ;;
    --seed) seed=${2:?--seed needs a number}; shift 2 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "quickstart: error: $1 is neither an option nor key=value; see --help" >&2; exit 2 ;;
  esac
done
if [ -e "$run_dir" ]; then
  aside="$run_dir.$(date +%Y%m%d-%H%M%S)"
  echo "$run_dir exists: its earlier content is now $aside"
  mv "$run_dir" "$aside"
fi

say() { printf '\n== %s\n' "$*"; }
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

say "1/5 environment"
begin=$SECONDS
bash tools/setup_env.sh cpu
venv=${MEGATRON_SPPO_VENV:-.venv}
export PATH="$(cd "$venv/bin" && pwd):$PATH"
seconds_install=$((SECONDS - begin))

say "2/5 task, tokenizer and random models (seed $seed)"
begin=$SECONDS
python examples/quickstart/make_assets.py --output "$run_dir/assets" --seed "$seed"

say "3/5 warm start: supervised fine-tuning"
megatron-sppo sft examples/quickstart/sft.yaml --nproc 2 seed="$seed" run_dir="$run_dir/warm_start" \
  model.path="$run_dir/assets/model" "data.train=[$run_dir/assets/warm_start.jsonl]"
seconds_warm_start=$((SECONDS - begin))

say "4/5 SPPO"
begin=$SECONDS
megatron-sppo train examples/quickstart/sppo.yaml --nproc 2 seed="$seed" run_dir="$run_dir" \
  actor.path="$run_dir/warm_start/hf" critic.path="$run_dir/assets/critic" \
  "data.train=[$run_dir/assets/train.jsonl]" "data.validation=[$run_dir/assets/arithmetic.jsonl]" "${overrides[@]}"
seconds_rl=$((SECONDS - begin))

say "5/5 summary and report"
python examples/quickstart/summarize.py "$run_dir" \
  --seconds-install "$seconds_install" --seconds-warm-start "$seconds_warm_start" --seconds-rl "$seconds_rl"
megatron-sppo report "$run_dir" --title "SPPO quickstart, seed $seed"
