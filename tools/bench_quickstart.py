"""Run the quickstart with several seeds and write its table into BENCHMARKS.md, from the runs' own summaries.

    python tools/bench_quickstart.py --seeds 1 2 3

A run that is there already (runs/bench/quickstart_seed_N/summary.json) is not repeated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- quickstart: begin -->", "<!-- quickstart: end -->"


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return f"{found.group(1) if found else platform.processor()}, {os.cpu_count()} cores"


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def run_seed(seed: int) -> dict[str, Any]:
    """The summary of one quickstart run, with the commit it ran on."""
    run_dir = ROOT / "runs" / "bench" / f"quickstart_seed_{seed}"
    stamp = run_dir / "bench.json"
    if not stamp.is_file():
        script = ROOT / "examples" / "quickstart.sh"
        subprocess.run(["bash", str(script), "--seed", str(seed), "--run-dir", str(run_dir)], cwd=ROOT, check=True)
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        stamp.write_text(json.dumps({"seed": seed, "commit": commit(), **summary}), encoding="utf-8")
    result: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
    return result


def accuracy(value: dict[str, Any]) -> str:
    return f"{value['mean']:.1%} ({value['low']:.1%} to {value['high']:.1%})"


def table(runs: list[dict[str, Any]]) -> str:
    measure = runs[0]["accuracy_before"]["measure"]
    rows = [
        f"| {run['seed']} | {accuracy(run['accuracy_before'])} | {accuracy(run['accuracy_after'])} "
        f"| {100 * (run['accuracy_after']['mean'] - run['accuracy_before']['mean']):+.1f} | {run['steps']} "
        f"| {run['seconds_install']} | {run['seconds_warm_start']} | {run['seconds_rl']} |"
        for run in runs
    ]
    head = (
        f"| seed | held-out {measure} before (95 % interval) | after | points | steps | install, s | warm start, s | SPPO, s |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    commits = ", ".join(sorted({run["commit"] for run in runs}))
    today = dt.datetime.now(tz=dt.UTC).date()
    where = f"{today}, commit {commits}, {processor()}; an install of about 0 s means that the environment was there already."
    command = f"`python tools/bench_quickstart.py --seeds {' '.join(str(run['seed']) for run in runs)}`"
    return "\n".join([BEGIN, "", f"{command}, {where}", "", head, *rows, "", END])


def write(section: str, begin: str, end: str, heading: str) -> None:
    """``section`` in place of what stands from ``begin`` to ``end`` in BENCHMARKS.md, or under ``heading`` at its end."""
    path = ROOT / "BENCHMARKS.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{heading}\n\n{begin}\n{end}\n"
    before, rest = text.split(begin, 1)
    path.write_text(before + section + rest.split(end, 1)[1], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    runs = [run_seed(seed) for seed in parser.parse_args().seeds]
    write(table(runs), BEGIN, END, "## Quickstart")
    sys.stdout.write(table(runs) + "\n")


if __name__ == "__main__":
    main()
