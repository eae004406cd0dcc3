"""The rollout engine of ranks that do not have one: orders to the ranks that roll out, and their results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.errors import WeightMismatch
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job
from megatron_sppo.parallel.mailbox import Mailbox
from megatron_sppo.parallel.parcel import Parcel, receive_parcel, send_parcel
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.engine import Decode, HFTensors, OnFinished, OnProgress
from megatron_sppo.rollout.orders import (
    Answer,
    Order,
    answers_result,
    read_answers_result,
    read_rollouts_result,
    sampling_order,
)


@dataclass(frozen=True)
class _UnderWay:
    prompts: Prompts
    responses_per_prompt: int


class RemoteEngine:
    """Implements :class:`~megatron_sppo.rollout.engine.RolloutEngine`; :mod:`megatron_sppo.rollout.serve` is the other end.

    Every method is collective over the ranks that train. Texts come decoded by the run's own tokenizer; ``decode`` is not called.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._under_way: _UnderWay | None = None
        self._busy_seconds, self._num_streams = 0.0, 0

    def submit(self, prompts: Prompts, plan: SamplingPlan) -> None:
        """Begin to sample; returns at once. Nothing else may be asked of the engine before :meth:`collect`."""
        self._send(sampling_order("generate", prompts, plan))
        self._under_way = _UnderWay(prompts, plan.responses_per_prompt)

    def collect(self) -> Rollouts:
        """Wait for what was submitted."""
        assert self._under_way is not None, "submit() comes first"
        under_way, self._under_way = self._under_way, None
        result = self._receive()
        self._busy_seconds += float(result.note["seconds"])
        return read_rollouts_result(result, under_way.prompts, under_way.responses_per_prompt)

    def stream(self, prompts: Prompts, plan: SamplingPlan, size: int) -> Iterator[tuple[list[int], Rollouts]]:
        """Begin to sample, at once: (response indices, responses), ``size`` at a time in order of arrival; one sample per prompt.

        To be read to its end.
        """
        assert plan.responses_per_prompt == 1 and self._job.store is not None
        self._num_streams += 1
        name, order = f"stream{self._num_streams}", sampling_order("stream", prompts, plan)
        self._send(Parcel({**order.note, "mailbox": name}, order.tensors))
        return self._arriving(prompts, Mailbox(self._job.store, name), size)

    def _arriving(self, prompts: Prompts, mailbox: Mailbox, size: int) -> Iterator[tuple[list[int], Rollouts]]:
        world = platform.host_group()
        for first in range(0, len(prompts), size):
            if self._job.rank == 0:
                arrived = [Answer.from_bytes(mailbox.take()) for _ in range(min(size, len(prompts) - first))]
                parcel = answers_result(arrived)
                send_parcel(parcel, 0, world)
            else:
                parcel = receive_parcel(0, world)
            yield read_answers_result(parcel, prompts)
        self._busy_seconds += float(self._receive().note["seconds"])

    def take_busy_seconds(self) -> float:
        """How long the engines have sampled since the last call."""
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds

    def generate(
        self,
        prompts: Prompts,
        plan: SamplingPlan,
        decode: Decode,
        on_progress: OnProgress | None = None,
        on_finished: OnFinished | None = None,
    ) -> Rollouts:
        """See the protocol."""
        assert on_finished is None, "the responses are on other ranks until all are there"
        self.submit(prompts, plan)
        return self.collect()

    def score(self, sequences: Ragged) -> Ragged:
        """See the protocol."""
        self._send(Parcel({"order": "score"}, (sequences.values, sequences.lengths)))
        return Ragged(*self._receive().tensors)

    def load_weights(self, tensors: HFTensors) -> None:
        """See the protocol."""
        self._send_weights("load", tensors)

    def verify_weights(self, tensors: HFTensors) -> None:
        """See the protocol."""
        self._send_weights("verify", tensors)
        mismatch = self._receive().note["mismatch"]
        if mismatch:
            raise WeightMismatch(mismatch)

    def _send_weights(self, order: Order, tensors: HFTensors) -> None:
        self._send(Parcel({"order": order}))
        for name, tensor in tensors:
            self._send(Parcel({"name": name}, (tensor.detach().cpu(),)))
        self._send(Parcel({"name": ""}))

    def begin_push(self, step: int) -> None:
        """The other end joins :meth:`megatron_sppo.reshard.sync.ReshardSync.push`; the caller does so next."""
        self._send(Parcel({"order": "push", "step": step}))

    @contextmanager
    def awake(self, until_push: bool = False) -> Iterator[None]:
        """See the protocol. An engine with a device of its own never sleeps."""
        yield

    def close(self) -> None:
        """See the protocol: the other end leaves its loop."""
        self._send(Parcel({"order": "close"}))

    def _send(self, parcel: Parcel) -> None:
        assert self._under_way is None, "the engine is busy: collect() comes first"
        if self._job.rank == 0:
            send_parcel(parcel, 0, self._job.host_group)
        else:
            receive_parcel(0, self._job.host_group)  # a broadcast passes every rank of the group

    def _receive(self) -> Parcel:
        return receive_parcel(self._job.first_rollout_rank, self._job.host_group)
