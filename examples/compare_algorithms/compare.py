"""All algorithms on the quickstart's task from the same warm start, several seeds each, and their curves in one report.

    python examples/compare_algorithms/compare.py --out runs/compare [--methods sppo] [--seeds 1 2] [--trl VENV] [key=value ...]

Per seed the task, the models and the warm start are made once and shared by all methods. Started again, it goes on where it was
stopped: a finished run is left alone, an interrupted one resumes from its checkpoint. Nothing else should run on the machine:
wall-clock is one of the results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"
METHODS = ("sppo", "grpo", "ppo", "ppo_bce", "rloo", "remax")
NPROC = ("--nproc", "2")
TRL = "TRL GRPO"  # its label in the report


@dataclass(frozen=True)
class Job:
    """One command, and the file that exists once it is done."""

    name: str
    command: tuple[str, ...]
    done: Path


@dataclass(frozen=True)
class Comparison:
    out: Path
    methods: Sequence[str]
    seeds: Sequence[int]
    trl: Path | None  # virtual environment with requirements/trl.txt; None = without TRL
    overrides: Sequence[str]  # for every run of ours

    def jobs(self) -> Iterator[Job]:
        """In the order to run them: seed by seed, so that a part of the whole is a comparison already."""
        for seed in self.seeds:
            yield from self._warm_start(seed)
            yield from (self._training(method, seed) for method in self.methods)
            if self.trl is not None:
                yield self._trl(self.trl, seed)

    def _warm(self, seed: int) -> Path:
        return self.out / "warm_start" / f"seed_{seed}"

    def _warm_start(self, seed: int) -> Iterator[Job]:
        warm = self._warm(seed)
        assets = warm / "assets"
        make = (sys.executable, str(QUICKSTART / "make_assets.py"), "--output", str(assets), "--seed", str(seed))
        yield Job(f"task and models, seed {seed}", make, assets / "critic" / "tokenizer.json")
        sft = ("megatron-sppo", "sft", str(QUICKSTART / "sft.yaml"), *NPROC, f"seed={seed}", f"run_dir={warm}")
        model = (f"model.path={assets}/model", f"data.train=[{assets}/warm_start.jsonl]")
        yield Job(f"warm start, seed {seed}", (*sft, *model), warm / "hf" / "config.json")

    def _training(self, method: str, seed: int) -> Job:
        run_dir, warm = self.out / method / f"seed_{seed}", self._warm(seed)
        words = (
            *(f"seed={seed}", f"run_dir={run_dir}", f"actor.path={warm}/hf", f"critic.path={warm}/assets/critic"),
            *(f"data.train=[{warm}/assets/train.jsonl]", f"data.validation=[{warm}/assets/arithmetic.jsonl]"),
        )
        train = ("megatron-sppo", "train", str(HERE / f"{method}.yaml"), *NPROC, *words, *self.overrides)
        return Job(f"{method}, seed {seed}", train, run_dir / "train_summary.json")

    def _trl(self, environment: Path, seed: int) -> Job:
        run_dir, warm = self.out / "trl" / f"seed_{seed}", self._warm(seed)
        command = (
            *(str(environment / "bin" / "torchrun"), "--nproc-per-node", "2", str(HERE.parents[1] / "tools" / "trl_grpo.py")),
            *("--assets", f"{warm}/assets", "--model", f"{warm}/hf", "--run-dir", str(run_dir), "--seed", str(seed)),
        )
        return Job(f"{TRL}, seed {seed}", command, run_dir / "train_summary.json")

    def report(self) -> tuple[str, ...]:
        runs = [str(self.out / method / f"seed_{seed}") for method in self.methods for seed in self.seeds]
        if self.trl is not None:
            runs += [f"{TRL}={self.out / 'trl' / f'seed_{seed}'}" for seed in self.seeds]
        return ("megatron-sppo", "report", *runs, "--out", str(self.out / "report"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs and the report")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3))
    parser.add_argument(
        "--trl", type=Path, metavar="VENV", help="run TRL's GRPO, too, from this environment (requirements/trl.txt)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left to run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every training run")
    arguments = parser.parse_intermixed_args()
    if arguments.trl is not None and not (arguments.trl / "bin" / "torchrun").exists():
        parser.error(f"--trl {arguments.trl} has no bin/torchrun: install requirements/trl.txt into it")
    comparison = Comparison(arguments.out, arguments.methods, arguments.seeds, arguments.trl, arguments.overrides)
    waiting = [job for job in comparison.jobs() if not job.done.exists()]
    last = comparison.report()
    if arguments.dry_run:
        print("\n".join(" ".join(command) for command in (*(job.command for job in waiting), last)))
        return
    started = time.monotonic()
    for number, job in enumerate(waiting):
        minutes = (time.monotonic() - started) / 60
        left = f", about {minutes / number * (len(waiting) - number):.0f} min left" if number else ""
        print(f"== {job.name}: {number + 1} of {len(waiting)}{left}", flush=True)
        subprocess.run(job.command, check=True)
    subprocess.run(last, check=True)


if __name__ == "__main__":
    main()
