"""The quickstart with colocated and with separate ranks, from one warm start, and their table in BENCHMARKS.md.

    python tools/bench_placement.py --seed 1 [--only colocated ahead]

A run that is there already (runs/bench/placement_seed_N/NAME/train_summary.json) is not repeated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean as mean_of
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_quickstart import ROOT, commit, processor, write

from megatron_sppo.monitor.jsonl import read_jsonl

BEGIN, END = "<!-- placement: begin -->", "<!-- placement: end -->"
HEADING = """## Separate ranks

One rank trains and one rolls out (docs/placement.md), on the quickstart's task. Colocated, two cores train; separate, one does
and is never idle, while the other waits for it: two cores are too few to gain from the overlap."""


@dataclass(frozen=True)
class Variant:
    what: str
    overrides: tuple[str, ...]


SEPARATE = ("actor.tp=1", "rollout.placement=separate", "rollout.num_ranks=1", "algorithm.importance_sampling.truncate=2")
VARIANTS = {
    "colocated": Variant("colocated: TP2, two engines", ()),
    "in_turn": Variant("separate, in turn", SEPARATE),
    "ahead": Variant("separate, one step ahead", (*SEPARATE, "rollout.max_staleness=1")),
    "stream": Variant("separate, streamed", (*SEPARATE, "rollout.stream=true", "actor.mini_batch_size=32")),
}


def warm_start(folder: Path, seed: int) -> None:
    """Task, models and the supervised policy that every variant begins with."""
    if (folder / "warm_start" / "hf" / "config.json").is_file():
        return
    assets = folder / "assets"
    run = ("python", "examples/quickstart/make_assets.py", "--output", assets, "--seed", seed)
    subprocess.run([*map(str, run)], cwd=ROOT, check=True)
    keys = (f"run_dir={folder / 'warm_start'}", f"model.path={assets / 'model'}", f"data.train=[{assets / 'warm_start.jsonl'}]")
    words = ("sft", "examples/quickstart/sft.yaml", "--nproc", "2", f"seed={seed}", *keys)
    subprocess.run(["megatron-sppo", *words], cwd=ROOT, check=True)


def run(folder: Path, name: str, seed: int) -> None:
    target, assets = folder / name, folder / "assets"
    if (target / "bench.json").is_file():
        return
    keys = (
        f"actor.path={folder / 'warm_start' / 'hf'}",
        f"critic.path={assets / 'critic'}",
        f"data.train=[{assets / 'train.jsonl'}]",
        f"data.validation=[{assets / 'arithmetic.jsonl'}]",
    )
    words = ("train", "examples/quickstart/sppo.yaml", "--nproc", "2", f"seed={seed}", f"run_dir={target}", *keys)
    started_from = commit()
    subprocess.run(["megatron-sppo", *words, *VARIANTS[name].overrides], cwd=ROOT, check=True)
    (target / "bench.json").write_text(json.dumps({"commit": started_from}), encoding="utf-8")


def row(folder: Path, name: str) -> str:
    summary: dict[str, Any] = json.loads((folder / name / "train_summary.json").read_text(encoding="utf-8"))
    (benchmark,) = summary["validation"].values()
    (mean,) = (value for key, value in benchmark.items() if key.startswith("avg@"))
    low, high = benchmark["interval"]
    steps = [found for found in read_jsonl(folder / name / "metrics.jsonl") if found["kind"] == "train"]

    def middle(metric: str) -> float | None:
        values = [step[metric] for step in steps if metric in step]
        return median(values) if values else None

    def share(metric: str) -> str:
        value = middle(metric)
        return "-" if value is None else f"{value:.0%}"

    cuts = [step["actor/mismatch_truncated"] for step in steps if "actor/mismatch_truncated" in step]
    cells = (
        VARIANTS[name].what,
        f"{mean:.1%} ({low:.1%} to {high:.1%})",
        f"{summary['seconds']:.0f}",
        f"{middle('time/step'):.2f}",
        share("perf/train_idle"),
        share("perf/rollout_idle"),
        f"{mean_of(cuts):.3%}" if cuts else "-",
    )
    return f"| {' | '.join(cells)} |"


def table(folder: Path, names: list[str], seed: int) -> str:
    head = (
        "| ranks | held-out avg@8 (95 % interval) | run, s | step (median), s | trainer waits | engine waits | weights cut |\n"
        "|---|---|---|---|---|---|---|"
    )
    commits = {json.loads((folder / name / "bench.json").read_text(encoding="utf-8"))["commit"] for name in names}
    only = "" if names == list(VARIANTS) else f" --only {' '.join(names)}"
    command = f"`python tools/bench_placement.py --seed {seed}{only}`"
    where = f"{command}, {dt.datetime.now(tz=dt.UTC).date()}, commit {', '.join(sorted(commits))}, {processor()}"
    return "\n".join([BEGIN, "", where, "", head, *(row(folder, name) for name in names), "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    folder = ROOT / "runs" / "bench" / f"placement_seed_{arguments.seed}"
    warm_start(folder, arguments.seed)
    for name in arguments.only:
        run(folder, name, arguments.seed)
    section = table(folder, arguments.only, arguments.seed)
    write(section, BEGIN, END, HEADING)
    sys.stdout.write(section + "\n")


if __name__ == "__main__":
    main()
