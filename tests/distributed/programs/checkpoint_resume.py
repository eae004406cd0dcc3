"""Run under torchrun on 2 ranks, in two launches: what resumes is compared with what went on.

    checkpoint_resume.py save FOLDER ACTOR_MODEL CRITIC_MODEL     trains, saves in the background, trains on, notes what came out
    checkpoint_resume.py load FOLDER ACTOR_MODEL CRITIC_MODEL     loads in a fresh process, trains the same step

Prints a line per check; a failed check raises.
"""

from __future__ import annotations

import copy
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch.distributed.checkpoint.api import CheckpointException

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch, CriticBatch
from megatron_sppo.checkpoint.checkpointer import Checkpointer
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.config.offload import LEAVING, PARTS, Level
from megatron_sppo.config.schema import (
    ActorConfig,
    AlgorithmConfig,
    CheckpointConfig,
    CriticConfig,
    OptimizerConfig,
    RolloutConfig,
)
from megatron_sppo.critic import Critic
from megatron_sppo.errors import UserError
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups, is_main
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import load_hf_weights

OPTIMIZER = OptimizerConfig(lr=1e-3, schedule="cosine", warmup_steps=2, weight_decay=0.1, clip_grad=0.5)
TOTAL_STEPS = 20
# name -> actor layout, critic layout, distributed optimizer, dtype
CASES: dict[str, tuple[Layout, Layout, bool, str]] = {
    "tp2 with critic dp2": (Layout(tp=2), Layout(), True, "fp32"),
    "pp2 with critic tp2": (Layout(pp=2), Layout(tp=2), True, "bf16"),
    "dp2 plain with critic pp2": (Layout(), Layout(pp=2), False, "fp32"),
    "cp2 with critic cp2": (Layout(cp=2), Layout(cp=2), True, "fp32"),
}
# Saved by the case, loaded into these layouts. Distributed and plain optimizers cannot read each other's.
OTHER_LAYOUTS = {
    "tp2 with critic dp2": (Layout(pp=2), Layout(tp=2)),
    "pp2 with critic tp2": (Layout(), Layout(pp=2)),
    "cp2 with critic cp2": (Layout(pp=2), Layout(tp=2)),
}
TRAINER_STATE = {"cursor": {"epoch": 1, "position": 7}, "best": None, "history": [0.25, 1e-30]}


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)


class Run:
    """An actor and a critic with one batch to learn from."""

    def __init__(
        self,
        models: list[str],
        actor: Layout,
        critic: Layout,
        distributed: bool,
        dtype: Any,
        lr: float = OPTIMIZER.lr,
        offload: Level = "none",
    ) -> None:
        groups = build_groups([actor, critic], seed=100 + dist.get_rank())
        shared = {"dtype": dtype, "mini_batch_size": 6, "optimizer": replace(OPTIMIZER, lr=lr, distributed=distributed)}
        actor_config = ActorConfig(path=models[0], tp=actor.tp, pp=actor.pp, cp=actor.cp, logprob_chunk_tokens=16, **shared)
        critic_config = CriticConfig(path=models[1], tp=critic.tp, pp=critic.pp, cp=critic.cp, **shared)
        hf_actor, hf_critic = (read_hf_config(model) for model in models)
        self.engines = {
            "actor": MegatronEngine(hf_actor, actor_config, groups[0], "lm", TOTAL_STEPS),
            "critic": MegatronEngine(hf_critic, critic_config, groups[1], "value", TOTAL_STEPS),
        }
        for engine, model in zip(self.engines.values(), models, strict=True):
            load_hf_weights(engine.model, engine.hf, model, engine.groups)
            engine.start_optimizer()
        for name, engine in self.engines.items():
            engine.residency.begin(LEAVING[offload][name])
        self.actor = Actor(self.engines["actor"], actor_config, temperature=0.7)
        self.critic = Critic(self.engines["critic"], critic_config, CRITICS["sppo"])
        self.algorithm = SPPO(AlgorithmConfig(), RolloutConfig(temperature=0.7), seed=1)

    def step(self) -> dict[str, float]:
        """One update of each model, two mini-batches, on rows that depend on the step alone; its metrics."""
        generator = torch.Generator().manual_seed(self.engines["actor"].scheduler.num_steps)
        prompts, responses = (
            Ragged.from_rows([torch.randint(2, 250, (int(n),), generator=generator) for n in lengths], torch.int64)
            for lengths in torch.randint(2, 20, (2, 12), generator=generator)
        )
        rewards = torch.randint(0, 2, (12,), generator=generator).float()
        values = self.critic.values(prompts, responses)
        old = self.actor.logprobs(prompts, responses)
        advantages = Ragged(torch.repeat_interleave(rewards - values.values, responses.lengths), responses.lengths)
        critic = self.critic.update(
            CriticBatch(prompts, responses, values.with_values(rewards), values), self.algorithm.critic_loss, seed=0
        )
        actor = self.actor.update(ActorBatch(prompts, responses, advantages, old, old, old), self.algorithm.actor_loss, seed=0)
        return {name: metric.value() for name, metric in {**critic, **actor}.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """This rank's shards."""
        with self.all_present():
            named = ((name, *item) for name, engine in self.engines.items() for item in engine.model.named_parameters())
            return {f"{name}.{key}": param.detach().clone() for name, key, param in named}

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """Full tensors under HF names, whatever the layout; the critic's without its head."""
        return {
            f"{name}.{key}": tensor.clone()
            for name, engine in self.engines.items()
            for key, tensor in iter_hf_tensors(engine.model, engine.hf, engine.groups)
        }

    def positions(self) -> list[int]:
        return [engine.scheduler.num_steps for engine in self.engines.values()]

    def rates(self) -> list[float]:
        return [max(group["lr"] for group in engine.optimizer.param_groups) for engine in self.engines.values()]

    def optimizer_state(self) -> dict[str, Any]:
        with self.all_present():
            return {name: copy.deepcopy(engine.optimizer.state_dict()) for name, engine in self.engines.items()}

    @contextmanager
    def all_present(self) -> Iterator[None]:
        with ExitStack() as stack:
            for engine in self.engines.values():
                stack.enter_context(engine.training())
            yield

    def present_bytes(self) -> dict[str, int]:
        """Of each model's parts, as they are now."""
        return {
            f"{name} {part}": sum(storage.nbytes() for storage in engine.storages(part).values())
            for name, engine in self.engines.items()
            for part in PARTS
        }


def draw() -> list[float]:
    """Numbers from each of this rank's generators."""
    with get_cuda_rng_tracker().fork():
        tracked = float(torch.rand(()))
    return [random.random(), float(np.random.rand()), float(torch.rand(())), tracked]  # noqa: NPY002 -- the global one


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def note(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}-{dist.get_rank()}.pt"


def save(folder: Path, models: list[str], name: str) -> None:
    run = Run(models, *CASES[name])
    for generator_seed in (random.seed, np.random.seed, torch.manual_seed):
        generator_seed(1000 + dist.get_rank())
    for _ in range(2):
        run.step()
    at_save, noted = run.weights(), {"whole": run.whole_weights(), "positions": run.positions(), "rates": run.rates()}
    started = time.monotonic()
    checkpointer = Checkpointer(folder / name, CheckpointConfig(asynchronous=True), run.engines)
    trainer_state = copy.deepcopy(TRAINER_STATE)
    checkpointer.save(2, trainer_state, is_best=True)
    seconds_save = time.monotonic() - started
    trainer_state["cursor"]["position"] = 99  # what changes after save() is not in the checkpoint
    assert checkpointer.store.complete() == [] and checkpointer.store.latest() is None, (
        "a checkpoint showed before it was complete"
    )
    drawn = draw()
    metrics = run.step()
    after = run.weights()
    assert not same(at_save, after), "the step changed nothing"
    optimizer = run.optimizer_state()
    started = time.monotonic()
    while checkpointer.store.latest() is None:
        assert time.monotonic() - started < 60, "the background save does not end"
        dist.barrier()  # so that all ranks look at the folder before any publishes
        checkpointer.maybe_finalize()
    checkpointer.close()
    assert checkpointer.store.latest() == checkpointer.store.best() == folder / name / "checkpoints" / "step_000002"
    noted |= {"drawn": drawn, "metrics": metrics, "after": after, "optimizer": optimizer, "at_save": at_save}
    torch.save({**noted, "whole_after": run.whole_weights()}, note(folder, name))
    say(f"PASS save {name} ({seconds_save:.1f} s)")


def load(folder: Path, models: list[str], name: str) -> None:
    """What went on kept everything on the device; what resumes keeps there what it uses."""
    noted = torch.load(note(folder, name), weights_only=False)
    run = Run(models, *CASES[name], offload="all")
    assert not same(run.weights(), noted["at_save"])
    checkpointer = Checkpointer(folder / name, CheckpointConfig(resume="must"), run.engines)
    assert checkpointer.load_latest() == (2, TRAINER_STATE)
    assert same(run.weights(), noted["at_save"]), "weights as they were at save(), not after the step that followed"
    assert draw() == noted["drawn"], "each rank has its own generators back"
    metrics = run.step()
    assert same(metrics, noted["metrics"]), f"{metrics} is not {noted['metrics']}"
    assert same(run.weights(), noted["after"])
    assert same(run.optimizer_state(), noted["optimizer"])
    left = {part for part, size in run.present_bytes().items() if size == 0}
    assert left == {"actor optimizer", "actor gradients", "critic optimizer", "critic gradients", "critic weights"}
    with run.all_present():
        assert all(run.present_bytes().values()), run.present_bytes()
    say(f"PASS load {name}")


def load_elsewhere(folder: Path, models: list[str], name: str) -> None:
    noted = torch.load(note(folder, name), weights_only=False)
    layouts, (distributed, dtype) = OTHER_LAYOUTS[name], CASES[name][2:]
    faster = Run(models, *layouts, distributed, dtype, lr=2 * OPTIMIZER.lr)
    Checkpointer(folder / name, CheckpointConfig(), faster.engines).load_latest()
    assert same(faster.whole_weights(), noted["whole"])
    assert faster.positions() == noted["positions"], "how far the schedule got is the checkpoint's"
    assert faster.rates() == [2 * rate for rate in noted["rates"]], "the peak of the schedule is the config's"
    run = Run(models, *layouts, distributed, dtype)
    Checkpointer(folder / name, CheckpointConfig(), run.engines).load_latest()
    run.step()
    after, tolerance = run.whole_weights(), {"fp32": 2e-5, "bf16": 2e-2}[dtype]
    worst = max(float((after[key] - noted["whole_after"][key]).abs().max()) for key in after)
    moved = max(float((after[key] - noted["whole"][key]).abs().max()) for key in after)
    assert worst < tolerance, f"{worst} after a step of {moved}: the optimizer's state did not follow into the other layout"
    say(f"PASS elsewhere {name} (difference {worst:.1e} after a step of {moved:.1e})")


def never_stepped(folder: Path, models: list[str]) -> None:
    """Adam without moments yet, as an actor's in the critic's warm-up: resumed, its first step is a first step."""
    resumed, fresh = (Run(models, *CASES[next(iter(CASES))], offload=level) for level in ("optimizer", "none"))
    loaded = Checkpointer(folder / "full", CheckpointConfig(), resumed.engines).load_latest()
    assert loaded is not None and loaded[0] == 1
    assert same(resumed.step(), fresh.step()) and same(resumed.weights(), fresh.weights())
    say("PASS never stepped")


def refusals(folder: Path, models: list[str]) -> None:
    """Every rank gets the same sentence; and the two ways to start afresh."""
    name = next(iter(CASES))
    actor, critic, distributed, dtype = CASES[name]
    same_model, other_model = Run(models, actor, critic, not distributed, dtype), Run(models[:1] * 2, *CASES[name])
    for config, run_dir, run, words in (
        (CheckpointConfig(resume="must"), folder / "nowhere", other_model, "checkpoint.resume=must"),
        (CheckpointConfig(), folder / name, other_model, "critic.path has hidden_size=128 but .* was saved with hidden_size=64"),
        (CheckpointConfig(), folder / name, same_model, "actor.optimizer.distributed=False but .* was saved with True"),
    ):
        with pytest.raises(UserError, match=words):
            Checkpointer(run_dir, config, run.engines).load_latest()
    assert Checkpointer(folder / "nowhere", CheckpointConfig(), other_model.engines).load_latest() is None
    assert Checkpointer(folder / name, CheckpointConfig(resume="never"), other_model.engines).load_latest() is None
    assert (folder / name / "checkpoints" / "abandoned_step_000002").is_dir()
    say("PASS refusals")


def retention(folder: Path, models: list[str]) -> None:
    """Saves without pause, asynchronous and not: pointers and folders in the end."""
    run = Run(models, *CASES[next(iter(CASES))])
    for asynchronous in (True, False):
        with Checkpointer(
            folder / "many", CheckpointConfig(asynchronous=asynchronous, keep_last=1, resume="never"), run.engines
        ) as many:
            many.load_latest()
            for step in (1, 2, 3):
                many.save(step, {}, is_best=step == 1)
        assert many.store.complete() == [1, 3], many.store.complete()
        dist.barrier()
    say("PASS retention")


def abandoned(folder: Path, models: list[str]) -> None:
    """An error while a save is in flight neither waits for other ranks nor publishes; its writer ends."""
    run = Run(models, *CASES[next(iter(CASES))])
    checkpointer = Checkpointer(folder / "abandoned", CheckpointConfig(), run.engines)

    def fail_while_saving() -> None:
        with checkpointer:
            checkpointer.save(1, {})
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_while_saving()
    assert checkpointer.store.complete() == []
    deadline = time.monotonic() + 20
    while any("Manager" not in child.name for child in multiprocessing.active_children()):
        assert time.monotonic() < deadline, multiprocessing.active_children()
        time.sleep(0.05)
    dist.barrier()
    say("PASS abandoned")


def full_disk(folder: Path, models: list[str]) -> None:
    """A writer that fails ends the run on every rank, and `latest` stays where it was."""
    run = Run(models, *CASES[next(iter(CASES))])
    checkpointer = Checkpointer(folder / "full", CheckpointConfig(), run.engines)
    checkpointer.save(1, {})
    checkpointer.close()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))  # the largest file, in bytes
    checkpointer.save(2, {})
    with pytest.raises(CheckpointException) as failure:
        checkpointer.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "The checkpoint of step 2 could not be written" in failure.value.__notes__[0]
    assert checkpointer.store.complete() == [1]
    assert checkpointer.store.latest() == folder / "full" / "checkpoints" / "step_000001"
    say("PASS full disk")


def main() -> None:
    mode, folder, *models = sys.argv[1:]
    platform.start_distributed()
    platform.quiet_upstream()
    for name in CASES:
        if mode == "save":
            save(Path(folder), models, name)
        else:
            load(Path(folder), models, name)
    if mode == "load":
        for name in OTHER_LAYOUTS:
            load_elsewhere(Path(folder), models, name)
        never_stepped(Path(folder), models)
        refusals(Path(folder), models)
    else:
        retention(Path(folder), models)
        abandoned(Path(folder), models)
        full_disk(Path(folder), models)  # the last: upstream's queue of results is out of step after it


if __name__ == "__main__":
    main()
