"""Separate placement without ranks: what is refused, what travels, what waits in a checkpoint, in which order things arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan, join_rollouts
from megatron_sppo.config.arithmetic import check, explain
from megatron_sppo.config.load import load_config
from megatron_sppo.config.placement import name_of_rank
from megatron_sppo.config.schema import Config
from megatron_sppo.data.curriculum import Drawn
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.parallel.mailbox import Mailbox
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.orders import (
    Answer,
    answers_result,
    read_answers_result,
    read_rollouts_result,
    read_sampling_order,
    rollouts_result,
    sampling_order,
)
from megatron_sppo.rollout.sampler import Sampled, from_plain, to_plain

GIVEN = ("actor.path=model", "data.train=a.jsonl", "data.validation=b.jsonl", "prompts_per_step=8")
SEPARATE = ("rollout.placement=separate", "rollout.num_ranks=1")
CORRECTED = (*SEPARATE, "algorithm.importance_sampling.truncate=2")
STREAM = (*CORRECTED, "rollout.stream=true")


def config(*overrides: str) -> Config:
    return load_config(Config, [], [*GIVEN, *overrides])


def test_layouts_are_those_of_each_part() -> None:
    twelve = config(SEPARATE[0], "rollout.num_ranks=4", "rollout.tp=2", "actor.tp=4", "critic.tp=2")
    assert check(twelve, 12, "cpu") == []
    text = explain(twelve, 12)
    assert "TP4 x PP1 x CP1 x DP2" in text and "TP2 x PP1 x CP1 x DP4" in text
    assert "2 vLLM engines of TP2, 4 responses each" in text and "8 train, 4 roll out" in text


def test_a_rank_has_a_name() -> None:
    assert [name_of_rank(rank, 2) for rank in (1, 2)] == [
        "training rank 1 (rank 1 of the job)",
        "rollout rank 0 (rank 2 of the job)",
    ]
    assert name_of_rank(1, 0) == "rank 1"


def prompts_of(*ids: str) -> Prompts:
    tokens = Ragged.from_rows([[index, 7, 8][: 1 + index % 3] for index in range(len(ids))], torch.int64)
    texts = tuple(f"text of {name}" for name in ids)
    return Prompts(ids, texts, golds=ids, sources=("s",) * len(ids), tokens=tokens, messages=((("user", "é"),),) * len(ids))


PROMPTS = prompts_of("a:0", "ß:1", "")
ROLLOUTS = Rollouts(
    PROMPTS,
    prompt_index_B=torch.arange(3),
    response_tokens=Ragged.from_rows([[5], [], [6, 2**40]], torch.int64),
    engine_logprobs=Ragged.from_rows([[-0.1], [], [-1e-30, float("-inf")]], torch.float32),
    truncated_B=torch.tensor([True, False, True]),
    texts=("", "日本", "line\nbreak"),
)


def assert_equal(found: Rollouts, expected: Rollouts) -> None:
    for name in ("response_tokens", "engine_logprobs"):
        left, right = getattr(found, name), getattr(expected, name)
        assert (
            torch.equal(left.values, right.values)
            and torch.equal(left.lengths, right.lengths)
            and left.values.dtype == right.values.dtype
        )
    assert torch.equal(found.truncated_B, expected.truncated_B) and torch.equal(found.prompt_index_B, expected.prompt_index_B)
    assert found.texts == expected.texts and found.prompts.ids == expected.prompts.ids


def test_an_order_and_its_result_arrive_as_they_were() -> None:
    plan = SamplingPlan(1, 0.6, 1.0, -1, 12, (3, 4), seed=2**40)
    prompts, read = read_sampling_order(sampling_order("generate", PROMPTS, plan))
    assert read == plan and asdict(read) == asdict(plan)
    assert prompts.ids == PROMPTS.ids and torch.equal(prompts.tokens.values, PROMPTS.tokens.values)
    assert_equal(read_rollouts_result(rollouts_result(ROLLOUTS, 1.0), PROMPTS, 1), ROLLOUTS)


def answers() -> list[Answer]:
    rows = zip(
        ROLLOUTS.response_tokens.rows(), ROLLOUTS.engine_logprobs.rows(), ROLLOUTS.truncated_B, ROLLOUTS.texts, strict=True
    )
    return [Answer(i, t.tolist(), p.tolist(), bool(cut), text) for i, (t, p, cut, text) in enumerate(rows)]


@given(st.permutations(range(3)), st.integers(1, 3))
def test_responses_that_came_in_any_order_become_one_value(order: list[int], size: int) -> None:
    arrived = [Answer.from_bytes(answers()[index].to_bytes()) for index in order]
    batches = [read_answers_result(answers_result(arrived[n : n + size]), PROMPTS) for n in range(0, 3, size)]
    indices = [index for batch, _ in batches for index in batch]
    assert indices == order
    places = torch.tensor(indices).argsort().tolist()
    assert_equal(join_rollouts([rollouts for _, rollouts in batches], PROMPTS, places), ROLLOUTS)


def test_rollouts_wait_in_a_checkpoint(tmp_path: Path) -> None:
    drawn = Drawn(PROMPTS, torch.tensor([0.5, 1.0, 0.1], dtype=torch.float64), {"curriculum/pool": 9})
    torch.save(to_plain(Sampled(drawn, ROLLOUTS, policy_step=4)), tmp_path / "rollouts.pt")
    found = from_plain(torch.load(tmp_path / "rollouts.pt", weights_only=True))
    assert_equal(found.rollouts, ROLLOUTS)
    assert found.policy_step == 4 and found.drawn.metrics == drawn.metrics
    assert torch.equal(found.drawn.probability_P, drawn.probability_P)
    assert found.drawn.prompts.messages == PROMPTS.messages and found.drawn.prompts.texts == PROMPTS.texts


def test_waiting_for_each_item_is_a_phase() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    clock = StepClock()
    assert list(clock.each("rollout", slow())) == [0, 1, 2]
    assert clock.metrics(1)["time/rollout"] > 0.05
    assert 0.5 < clock.share("rollout", "never") <= 1


def test_a_mailbox_keeps_the_order_of_arrival_and_nothing_else(free_port: int) -> None:
    store = dist.TCPStore("127.0.0.1", free_port, is_master=True, timeout=timedelta(seconds=10))
    writers, reader = [Mailbox(store, "box"), Mailbox(store, "box")], Mailbox(store, "box")
    sent = [b"first", b"", bytes(range(256)) * 4096, b"last"]
    for number, value in enumerate(sent):
        writers[number % 2].put(value)
    assert [reader.take() for _ in sent] == sent
    assert not any(store.check([f"box/{number}"]) for number in range(1, 5))
