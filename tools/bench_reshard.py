"""Reshard: plans for clusters that are not here, and pushes measured on two ranks of this machine.

    python tools/bench_reshard.py                        # both, as tables
    python tools/bench_reshard.py --plans                # no model is built, nothing is allocated
    python tools/bench_reshard.py --measure --json FILE  # 300 M parameters in bf16, against gathering + load_weights

Seconds are medians over pushes that take turns with those of the other route, of the slowest rank; memory is the growth of a
rank's resident set over one push at its peak, in a launch of its own whose malloc keeps no freed blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.reshard.declared import Cluster
from megatron_sppo.reshard.published import PUBLISHED
from megatron_sppo.reshard.report import advise, plan_report

MIB = 2**20
CAP = 32 * MIB
EVERY = RolloutConfig().verify_weights_every
RANKS_PROGRAM = Path(__file__).with_name("bench_reshard_ranks.py")
# (model, what it is, layout)
PLANS = (
    ("Qwen2.5-7B", "TP4 -> 2 x TP4, 8 GPUs", Cluster(tp=4, dp=2, rollout_tp=4, num_engines=2)),
    ("Qwen2.5-7B", "TP4 PP2 -> 2 x TP4, 8 GPUs", Cluster(tp=4, pp=2, rollout_tp=4, num_engines=2)),
    ("Qwen2.5-7B", "TP2 PP2 DP2 -> 8 x TP1, 8 GPUs", Cluster(tp=2, pp=2, dp=2, rollout_tp=1, num_engines=8)),
    ("Qwen2.5-7B", "TP4 PP2 DP2 -> 4 x TP4, 16 GPUs", Cluster(tp=4, pp=2, dp=2, rollout_tp=4, num_engines=4)),
    ("Qwen2.5-7B", "TP4 PP2 -> 2 x TP4 on 8 others", Cluster(tp=4, pp=2, rollout_tp=4, num_engines=2, separate=True)),
    ("Qwen2.5-32B", "TP8 PP4 -> 8 x TP4, 32 GPUs", Cluster(tp=8, pp=4, rollout_tp=4, num_engines=8)),
    ("Qwen2.5-32B", "TP4 PP4 DP4 -> 16 x TP4, 64 GPUs", Cluster(tp=4, pp=4, dp=4, rollout_tp=4, num_engines=16)),
    ("Qwen2.5-72B", "TP8 PP4 DP2 -> 8 x TP8, 64 GPUs", Cluster(tp=8, pp=4, dp=2, rollout_tp=8, num_engines=8)),
    ("Qwen3-30B-A3B", "TP2 EP8 -> TP8, 8 GPUs", Cluster(tp=2, dp=4, ep=8, rollout_tp=8, num_engines=1)),
    (
        "Qwen3-30B-A3B",
        "TP4 PP2 EP4 -> 2 x TP4 EP4, 8 GPUs",
        Cluster(tp=4, pp=2, ep=4, rollout_tp=4, num_engines=2, rollout_ep=True),
    ),
)


def plans() -> list[dict[str, Any]]:
    found = []
    for model, what, cluster in PLANS:
        report = plan_report(PUBLISHED[model], cluster, CAP)
        found.append({"model": model, "layout": what, **report.row(), "advice": advise(PUBLISHED[model], report, CAP)})
    return found


def run_ranks(what: str, layers: int, repeats: int, environment: dict[str, str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        program = [str(RANKS_PROGRAM), what, folder, str(results), str(layers), str(repeats)]
        subprocess.run([*launcher, *program], check=True, env=os.environ | environment)
        found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found


def measure(layers: int, repeats: int) -> list[dict[str, Any]]:
    times = run_ranks("time", layers, repeats, {})
    # Freed blocks go back to the system at once, so that the resident set is what is in use and not what malloc keeps.
    memory = run_ranks("memory", layers, repeats, {"MALLOC_MMAP_THRESHOLD_": "65536"})
    return [time | weight for time, weight in zip(times, memory, strict=True)]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plan_table(found: list[dict[str, Any]]) -> str:
    header = [
        *("model", "layout", "needed a rank, GB", "received, GB (max / mean)", "gathering, GB", "times less"),
        *("from other nodes, GB", "to the minimum", "rounds of 32 MiB", "planned in, s", "aliasable"),
    ]
    rows = []
    for plan in found:
        most, mean = plan["received_per_rank_max"], plan["received_per_rank_mean"]
        less = f"{plan['gather_per_rank'] / mean:.1f}" if mean else "all"
        rows.append(
            [
                plan["model"],
                plan["layout"],
                f"{plan['needed_per_rank'] / 1e9:.2f}",
                f"{most / 1e9:.2f} / {mean / 1e9:.2f}",
                f"{plan['gather_per_rank'] / 1e9:.2f}",
                less,
                f"{plan['received_across_nodes'] / 1e9:.2f}",
                f"{plan['ratio_to_minimum']:.3f}",
                str(plan["rounds"]),
                f"{plan['planning_seconds']:.2f}",
                f"{plan['aliasable_share']:.0%}",
            ]
        )
    advice = [f"* {plan['model']}, {plan['layout']}: {sentence}." for plan in found for sentence in plan["advice"]]
    return "\n".join([table(header, rows), "", *advice])


def measured_table(found: list[dict[str, Any]]) -> str:
    header = [
        *(
            "layout",
            "weights",
            "received a rank, MB",
            "minimum",
            "ratio",
            "gathering, MB",
            "push, ms",
            "gather + load, ms",
            "faster",
        ),
        *("proof, ms", f"a push at every {EVERY}th", "extra MiB at cap 16", "bound", "at cap 64", "bound", "gathering's"),
    ]
    rows = [
        [
            case["layout"],
            case["weights"],
            f"{case['received_bytes_all_ranks'] / 2e6:.1f}",
            f"{case['minimum_bytes_all_ranks'] / 2e6:.1f}",
            f"{case['ratio_to_minimum']:.3f}",
            f"{case['gather_bytes'] / 1e6:.1f}",
            f"{1e3 * case['push_seconds']:.0f}",
            f"{1e3 * case['gather_seconds']:.0f}",
            f"{case['speedup']:.1f} x",
            f"{1e3 * case['proof_seconds']:.0f}",
            f"{case['proof_share']:.1%}",
            *(f"{case['peak_mib'][cap][key]:.0f}" for cap in ("16", "64") for key in ("measured", "bound")),
            f"{case['gather_peak_mib']:.0f}",
        ]
        for case in found
    ]
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", action="store_true", help="only plans")
    parser.add_argument("--measure", action="store_true", help="only measured pushes")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--layers", type=int, default=16, help="of the measured model; 16 make 300 M parameters")
    parser.add_argument("--repeats", type=int, default=7, help="timed pushes of each route")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.plans or not options.measure:
        results["plans"] = plans()
        print(plan_table(results["plans"]), flush=True)
    if options.measure or not options.plans:
        results["measured"] = measure(options.layers, options.repeats)
        print(measured_table(results["measured"]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
