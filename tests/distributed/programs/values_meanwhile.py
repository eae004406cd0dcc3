"""One rank that trains and one that samples, which answers only once the values of the prompts are there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.data.curriculum import everything
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.parallel.job import Job, start_job
from megatron_sppo.parallel.mailbox import Mailbox
from megatron_sppo.parallel.parcel import Parcel, receive_parcel, send_parcel
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.orders import Answer, read_sampling_order, rollouts_result
from megatron_sppo.rollout.remote_engine import RemoteEngine
from megatron_sppo.rollout.sampler import Elsewhere

PROMPTS = Prompts(("a", "b"), ("A", "B"), ("1", "2"), ("s", "s"), Ragged.from_rows([[5, 6], [7]], torch.int64))
PLAN = SamplingPlan(1, 1.0, 1.0, -1, max_response_tokens=4, stop_token_ids=(0,), seed=1)
THERE = "values are there"


def train(job: Job) -> None:
    engine, phases, begun = RemoteEngine(job), [], []

    def begin_values(prompts: Ragged) -> None:
        begun.append(prompts)
        _store(job).set(THERE, "yes")

    def decode(tokens: Any) -> str:
        raise AssertionError("texts come decoded")

    clock = StepClock(on_phase=phases.append)
    sampler = Elsewhere(engine, lambda step: everything(PROMPTS), lambda step: PLAN, decode, lambda step: True, begin_values)
    sampled = sampler.take(1, clock, None)
    assert phases == ["curriculum", "rollout", "value", "rollout"], phases
    assert len(begun) == 1 and begun[0].values.equal(PROMPTS.tokens.values)
    assert sampled.rollouts.texts == ("answer to a", "answer to b") and sampled.policy_step == 0
    _store(job).delete_key(THERE)
    arriving = engine.stream(PROMPTS, PLAN, size=1)  # begins at once, not when the first is asked for
    _store(job).set(THERE, "yes")
    assert [indices for indices, _ in arriving] == [[1], [0]]
    engine.close()


def roll_out(job: Job) -> None:
    order = _hear(job, "generate")
    prompts, _ = read_sampling_order(order)
    _wait(job)
    tokens = Ragged.from_rows([[3, 0], [4, 0]], torch.int64)
    logprobs = Ragged(torch.zeros(4), tokens.lengths)
    texts = tuple(f"answer to {name}" for name in prompts.ids)
    rollouts = Rollouts(prompts, torch.arange(2), tokens, logprobs, torch.zeros(2, dtype=torch.bool), texts)
    send_parcel(rollouts_result(rollouts, 1.0), 1, job.host_group)
    order = _hear(job, "stream")
    _wait(job)
    mailbox = Mailbox(_store(job), order.note["mailbox"])
    for index in (1, 0):
        mailbox.put(Answer(index, [3, 0], [0.0, 0.0], False, "text").to_bytes())
    send_parcel(Parcel({"seconds": 1.0}), 1, job.host_group)
    _hear(job, "close")


def _hear(job: Job, expected: str) -> Parcel:
    order = receive_parcel(0, job.host_group)
    assert order.note["order"] == expected, order.note
    return order


def _wait(job: Job) -> None:
    """Fails where the other rank waits for the answer before it computes the values."""
    _store(job).wait([THERE], timedelta(seconds=20))


def _store(job: Job) -> dist.Store:
    assert job.store is not None
    return job.store


def main() -> None:
    job = start_job(num_rollout_ranks=1)
    (train if job.role == "train" else roll_out)(job)
    dist.destroy_process_group()
    print(f"{job.role} is done", flush=True)


if __name__ == "__main__":
    main()
