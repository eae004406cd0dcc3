"""``summary.json`` of a quickstart run: accuracy before and after with intervals, and where the time went.

python examples/quickstart/summarize.py runs/quickstart --seconds-install 90 --seconds-warm-start 120 --seconds-rl 240
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from megatron_sppo.monitor.jsonl import read_jsonl


def accuracy(row: dict[str, Any]) -> dict[str, Any]:
    """avg@k of a validation row with its 95 % interval over problems."""
    (measure,) = (name for name in row if "avg@" in name and not name.endswith(("_low", "_high")))
    return {"measure": measure.split("/")[-1], "mean": row[measure], "low": row[f"{measure}_low"], "high": row[f"{measure}_high"]}


def summarize(run_dir: Path, seconds: dict[str, int]) -> dict[str, Any]:
    rows = read_jsonl(run_dir / "metrics.jsonl")
    validations = [row for row in rows if row["kind"] == "validation"]
    return {
        "accuracy_before": accuracy(validations[0]),
        "accuracy_after": accuracy(validations[-1]),
        **seconds,
        "steps": max(row["step"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run_dir", type=Path)
    for part in ("install", "warm_start", "rl"):
        parser.add_argument(f"--seconds-{part.replace('_', '-')}", type=int, required=True)
    arguments = parser.parse_args()
    seconds = {f"seconds_{part}": getattr(arguments, f"seconds_{part}") for part in ("install", "warm_start", "rl")}
    summary = summarize(arguments.run_dir, seconds)
    (arguments.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    for name, result in (("before", before), ("after", after)):
        print(f"held-out {result['measure']} {name:6} {result['mean']:.1%} ({result['low']:.1%} to {result['high']:.1%})")
    for part, spent in seconds.items():
        print(f"{part.removeprefix('seconds_').replace('_', ' '):10} {spent}s")


if __name__ == "__main__":
    main()
