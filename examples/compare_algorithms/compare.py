"""All algorithms on the quickstart's task from the same warm start, several seeds each, and their curves in one report.

    python examples/compare_algorithms/compare.py --out runs/compare --workers 2 [--trl VENV] [key=value ...]

Per seed the task, the models and the warm start are made once and shared by all methods. Started again, it goes on where it was
stopped: a finished run is left alone, an interrupted one resumes from its checkpoint.

Wall-clock is one of the results, so each run is one rank on a core of its own, ``--workers`` of them side by side, and nothing
else should run on the machine. (Models this small gain nothing from a second rank.) What a run prints is in OUT/logs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"
METHODS = ("sppo", "grpo", "ppo", "ppo_bce", "rloo", "remax")
NPROC = ("--nproc", "1")
POLL_SECONDS = 0.5
TRL = "TRL GRPO"  # its label in the report


@dataclass(frozen=True)
class Job:
    """One command, the file that exists once it is done, and the job that has to be done before it."""

    name: str
    command: tuple[str, ...]
    done: Path
    after: Job | None = None


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
            yield (assets := self._assets(seed))
            yield (warm_start := self._warm_start(seed, assets))
            yield from (self._training(method, seed, warm_start) for method in self.methods)
            if self.trl is not None:
                yield self._trl(self.trl, seed, warm_start)

    def _warm(self, seed: int) -> Path:
        return self.out / "warm_start" / f"seed_{seed}"

    def _assets(self, seed: int) -> Job:
        assets = self._warm(seed) / "assets"
        make = (sys.executable, str(QUICKSTART / "make_assets.py"), "--output", str(assets), "--seed", str(seed))
        return Job(f"task and models, seed {seed}", make, assets / "critic" / "tokenizer.json")

    def _warm_start(self, seed: int, assets: Job) -> Job:
        warm = self._warm(seed)
        sft = ("megatron-sppo", "sft", str(QUICKSTART / "sft.yaml"), *NPROC, f"seed={seed}", f"run_dir={warm}")
        model = (f"model.path={warm}/assets/model", f"data.train=[{warm}/assets/warm_start.jsonl]")
        return Job(f"warm start, seed {seed}", (*sft, *model), warm / "hf" / "config.json", assets)

    def _training(self, method: str, seed: int, warm_start: Job) -> Job:
        run_dir, warm = self.out / method / f"seed_{seed}", self._warm(seed)
        words = (
            *(f"seed={seed}", f"run_dir={run_dir}", f"actor.path={warm}/hf", f"critic.path={warm}/assets/critic"),
            *(f"data.train=[{warm}/assets/train.jsonl]", f"data.validation=[{warm}/assets/arithmetic.jsonl]"),
        )
        train = ("megatron-sppo", "train", str(HERE / f"{method}.yaml"), *NPROC, *words, *self.overrides)
        return Job(f"{method}, seed {seed}", train, run_dir / "train_summary.json", warm_start)

    def _trl(self, environment: Path, seed: int, warm_start: Job) -> Job:
        run_dir, warm = self.out / "trl" / f"seed_{seed}", self._warm(seed)
        command = (
            *(str(environment / "bin" / "python"), str(HERE.parents[1] / "tools" / "trl_grpo.py")),
            *("--assets", f"{warm}/assets", "--model", f"{warm}/hf", "--run-dir", str(run_dir), "--seed", str(seed)),
        )
        return Job(f"{TRL}, seed {seed}", command, run_dir / "train_summary.json", warm_start)

    def report(self) -> tuple[str, ...]:
        runs = [str(self.out / method / f"seed_{seed}") for method in self.methods for seed in self.seeds]
        if self.trl is not None:
            runs += [f"{TRL}={self.out / 'trl' / f'seed_{seed}'}" for seed in self.seeds]
        return ("megatron-sppo", "report", *runs, "--out", str(self.out / "report"))


def run_all(jobs: Sequence[Job], workers: int, logs: Path) -> None:
    """Each job on a core of its own, in order, as soon as one is free and the job before it is done.

    Raises SystemExit, with the log's path, where a job fails; the others are ended (they resume when started again).
    """
    logs.mkdir(parents=True, exist_ok=True)
    free = sorted(os.sched_getaffinity(0))[:workers]
    waiting, running = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]]()
    started = time.monotonic()
    try:
        while waiting or running:
            unfinished = {*waiting, *(job for job, _ in running.values())}
            ready = [job for job in waiting if job.after not in unfinished]
            for core, job in zip(tuple(free), ready, strict=False):
                waiting.remove(job)
                free.remove(core)
                running[core] = (job, start(job, core, log_of(job, logs)))
            for core, (job, process) in tuple(running.items()):
                if (status := process.poll()) is None:
                    continue
                if status != 0:
                    raise SystemExit(f"{job.name} failed with exit status {status}: see {log_of(job, logs)}")
                del running[core]
                free.append(core)
                minutes, done = (time.monotonic() - started) / 60, len(jobs) - len(waiting) - len(running)
                left = minutes / done * (len(jobs) - done)
                print(f"{job.name}: done, {done} of {len(jobs)} in {minutes:.0f} min, about {left:.0f} min left", flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.terminate()  # `megatron-sppo` ends its ranks with itself
            process.wait()


def start(job: Job, core: int, log: Path) -> subprocess.Popen[bytes]:
    """``job`` as a process that, with all it starts, stays on ``core``."""
    print(f"{job.name}: begins on core {core}", flush=True)
    with log.open("ab") as file:
        process = subprocess.Popen(job.command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    os.sched_setaffinity(process.pid, {core})  # before it has threads or children: they inherit it
    return process


def log_of(job: Job, logs: Path) -> Path:
    return logs / f"{job.name.replace(',', '').replace(' ', '_')}.log"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs and the report")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3))
    parser.add_argument(
        "--trl", type=Path, metavar="VENV", help="run TRL's GRPO, too, from this environment (requirements/trl.txt)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs side by side, each on a core of its own")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left to run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every training run")
    arguments = parser.parse_intermixed_args()
    if arguments.trl is not None and not (arguments.trl / "bin" / "python").exists():
        parser.error(f"--trl {arguments.trl} has no bin/python: install requirements/trl.txt into it")
    cores = len(os.sched_getaffinity(0))
    if not 1 <= arguments.workers <= cores:
        parser.error(f"--workers {arguments.workers} is not between 1 and the {cores} cores of this machine")
    comparison = Comparison(arguments.out, arguments.methods, arguments.seeds, arguments.trl, arguments.overrides)
    waiting = [job for job in comparison.jobs() if not job.done.exists()]
    last = comparison.report()
    if arguments.dry_run:
        print("\n".join(" ".join(command) for command in (*(job.command for job in waiting), last)))
        return
    run_all(waiting, arguments.workers, arguments.out / "logs")
    subprocess.run(last, check=True)


if __name__ == "__main__":
    main()
