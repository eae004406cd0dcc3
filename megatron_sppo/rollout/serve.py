"""The loop of ranks that roll out alone: one order after the other from training rank 0, until told to close."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch.distributed as dist
from torch import Tensor

from megatron_sppo.errors import WeightMismatch
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job
from megatron_sppo.parallel.mailbox import Mailbox
from megatron_sppo.parallel.parcel import Parcel, receive_parcel, send_parcel
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.engine import Decode
from megatron_sppo.rollout.orders import read_sampling_order, rollouts_result
from megatron_sppo.rollout.vllm_engine import VLLMEngine

Push = Callable[[int], object]  # joins the push of a step


def serve(job: Job, engine: VLLMEngine, decode: Decode, push: Push) -> None:
    """Returns once the training ranks have closed their engine. Collective over the ranks that roll out."""
    server = _Server(job, engine, decode, push)
    while (order := receive_parcel(0, job.host_group)).note["order"] != "close":
        server.obey(order)


class _Server:
    def __init__(self, job: Job, engine: VLLMEngine, decode: Decode, push: Push) -> None:
        self._job, self._engine, self._decode, self._push = job, engine, decode, push
        self._handlers = {
            "generate": self._generate,
            "stream": self._stream,
            "score": self._score,
            "load": self._load,
            "verify": self._verify,
            "push": lambda order: self._push(order.note["step"]),
        }

    def obey(self, order: Parcel) -> None:
        self._handlers[order.note["order"]](order)

    def _generate(self, order: Parcel) -> None:
        started = time.perf_counter()
        with self._engine.awake():
            rollouts = self._engine.generate(*read_sampling_order(order), self._decode)
        self._reply(rollouts_result(rollouts, time.perf_counter() - started))

    def _stream(self, order: Parcel) -> None:
        """Each response leaves as it finishes; at the end, once all engines are done, the seconds it took."""
        started = time.perf_counter()
        assert self._job.store is not None, "a job in two parts has one"
        mailbox = Mailbox(self._job.store, order.note["mailbox"])
        for answer in self._engine.stream(*read_sampling_order(order), self._decode):
            mailbox.put(answer.to_bytes())
        dist.barrier(group=platform.host_group())
        self._reply(Parcel({"seconds": time.perf_counter() - started}))

    def _score(self, order: Parcel) -> None:
        with self._engine.awake():
            scores = self._engine.score(Ragged(*order.tensors))
        self._reply(Parcel({}, (scores.values, scores.lengths)))

    def _load(self, order: Parcel) -> None:
        self._engine.load_weights(self._weights())

    def _verify(self, order: Parcel) -> None:
        """The training ranks hear of a mismatch, and raise it too."""
        try:
            self._engine.verify_weights(self._weights())
        except WeightMismatch as error:
            self._reply(Parcel({"mismatch": str(error)}))
            raise
        self._reply(Parcel({"mismatch": ""}))

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """HF tensors as they arrive; an empty name ends them."""
        while name := (parcel := receive_parcel(0, self._job.host_group)).note["name"]:
            yield name, parcel.tensors[0]

    def _reply(self, parcel: Parcel) -> None:
        """All ranks that roll out hold the same result; the first one speaks."""
        speaker = self._job.first_rollout_rank
        if self._job.rank == speaker:
            send_parcel(parcel, speaker, self._job.host_group)
        else:
            receive_parcel(speaker, self._job.host_group)
