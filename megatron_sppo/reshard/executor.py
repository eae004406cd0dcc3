"""Carry out a plan: rounds of messages under a byte cap, copies on the rank while the wire is busy, memory bounded throughout.

Two rounds are in flight: while one travels, the one before is unpacked and copies on the rank run. Each direction has two
arenas of at most a cap, so staging is at most four caps, however large the model; what can be sent or received where it lies
takes none. A parameter that takes memory while it is unfinished (a staged one) is begun only when its part from other ranks is
there.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.messages import Copy, Message, RankRound, arena_elements, copy_table, rounds_of
from megatron_sppo.reshard.rounds import Rounds


class Target(Protocol):
    """Where a rank's copies end; :class:`megatron_sppo.rollout.live_weights.LiveWeights` is one."""

    def dtype(self, param: int) -> torch.dtype:
        """Of the memory that :meth:`flat` gives."""
        ...

    def lands(self, param: int) -> bool:
        """Whether the parameter takes memory from its first element until it is finished."""
        ...

    def flat(self, param: int) -> Tensor:
        """[elements] of a parameter, to write into."""
        ...

    def finish(self, param: int) -> None:
        """All copies into the parameter are done."""
        ...


@dataclass
class PushCost:
    """Of one push on this rank: seconds by what it worked on or waited for, and what came over the wire."""

    pack: float = 0.0
    wire: float = 0.0  # waiting, after all that could overlap was done
    unpack: float = 0.0
    local: float = 0.0
    finish: float = 0.0  # repacking or quantising; part of unpack and local
    received_bytes: int = 0

    def metrics(self) -> dict[str, float]:
        seconds = {name: value for name, value in asdict(self).items() if name != "received_bytes"}
        return {
            **{f"perf/reshard/{name}_seconds": value for name, value in seconds.items()},
            "perf/reshard/received_gb": self.received_bytes / 1e9,
        }


@dataclass
class _Run:
    """State of one push."""

    missing: Counter[int]  # copies still to come, per parameter
    from_others: Counter[int]  # those of them that travel
    cost: PushCost = field(default_factory=PushCost)


class Executor:
    """This rank's part of a plan, to be run again and again."""

    def __init__(
        self,
        local: Copies,
        rounds: Rounds,
        rank: int,
        source: Sequence[Tensor],
        target: Target | None,
        wire: torch.dtype,
        device: torch.device,
        group: dist.ProcessGroup | None,
    ) -> None:
        """The copies of all ranks that do not travel, and those that do. Ranks are those of ``group``.

        ``source`` are this rank's flat parameters by the plan's numbers, ``target`` those of its engine; elements travel as
        ``wire``.
        """
        self._source, self._target, self._wire, self._device, self._group = source, target, wire, device, group
        self._rounds = rounds_of(rounds, rank, self._sends_in_place, self._receives_in_place)
        mine = local.take(local.source == rank)
        self._local = copy_table(mine.take(mine.order.argsort(kind="stable")))
        received = [copy for round_ in self._rounds for message in round_.receives for copy in message.copies]
        self._from_others = Counter(copy.target_param for copy in received)
        self._missing = self._from_others + Counter(copy.target_param for copy in self._local)
        self._late: dict[int, list[Copy]] = defaultdict(list)
        for copy in self._local:
            if self._is_late(copy):
                self._late[copy.target_param].append(copy)
        self._arenas = {
            (direction, slot): torch.empty(elements, dtype=wire, device="meta")
            for direction, elements in self._arena_sizes().items()
            for slot in range(2)
        }

    def _sends_in_place(self, copy: Copy) -> bool:
        return copy.leaves_one_stretch and self._source[copy.source_param].dtype == self._wire

    def _receives_in_place(self, copy: Copy) -> bool:
        assert self._target is not None, "a rank without an engine receives nothing"
        return copy.fills_one_stretch and self._target.dtype(copy.target_param) == self._wire

    def _is_late(self, copy: Copy) -> bool:
        """Whether to wait for the parameter's part from other ranks: it takes memory while it is unfinished."""
        return copy.target_param in self._from_others and self._engine.lands(copy.target_param)

    @property
    def _engine(self) -> Target:
        assert self._target is not None, "only a rank with an engine has copies to write"
        return self._target

    def _arena_sizes(self) -> dict[str, int]:
        return {
            "send": max((arena_elements(round_.sends) for round_ in self._rounds), default=0),
            "receive": max((arena_elements(round_.receives) for round_ in self._rounds), default=0),
        }

    @property
    def staging_bytes(self) -> int:
        """Of all arenas."""
        return sum(arena.nbytes for arena in self._arenas.values())

    @torch.no_grad()
    def run(self) -> PushCost:
        """Write every parameter of every engine. Collective over the plan's ranks."""
        run = _Run(self._missing.copy(), self._from_others.copy())
        self._arenas = {key: torch.empty_like(arena, device=self._device) for key, arena in self._arenas.items()}
        prompt = [copy for copy in self._local if not self._is_late(copy)]
        share = -(-len(prompt) // max(1, len(self._rounds)))
        in_flight: tuple[RankRound, int, list[Any]] | None = None
        for number, round_ in enumerate(self._rounds):
            works = self._launch(run, round_, number % 2)
            self._copy_locally(run, prompt[number * share : (number + 1) * share])
            if in_flight is not None:
                self._land(run, *in_flight)
            in_flight = (round_, number % 2, works)
        if in_flight is None:
            self._copy_locally(run, prompt)
        else:
            self._land(run, *in_flight)
        assert not run.missing.total(), "a plan writes every parameter to its end"
        self._arenas = {key: torch.empty_like(arena, device="meta") for key, arena in self._arenas.items()}
        return run.cost

    def _launch(self, run: _Run, round_: RankRound, slot: int) -> list[Any]:
        with _clock(run.cost, "pack"):
            receives = [(dist.irecv, self._inbox(message, slot), message.peer) for message in round_.receives]
            sends = [(dist.isend, self._packed(message, slot), message.peer) for message in round_.sends]
            operations = [
                dist.P2POp(operation, tensor, group=self._group, group_peer=peer) for operation, tensor, peer in receives + sends
            ]
            return list(dist.batch_isend_irecv(operations)) if operations else []

    def _inbox(self, message: Message, slot: int) -> Tensor:
        if message.start is not None:
            return self._arenas["receive", slot][message.start : message.start + message.size]
        (copy,) = message.copies
        return self._engine.flat(copy.target_param)[copy.target_offset : copy.target_offset + copy.size]

    def _packed(self, message: Message, slot: int) -> Tensor:
        if message.start is None:
            (copy,) = message.copies
            return self._source[copy.source_param][copy.source_offset : copy.source_offset + copy.size]
        packed, at = self._arenas["send", slot][message.start : message.start + message.size], 0
        for copy in message.copies:
            values = copy.source_of(self._source[copy.source_param])
            packed[at : at + copy.size].view(copy.rows, copy.columns).copy_(values)
            at += copy.size
        return packed

    def _land(self, run: _Run, round_: RankRound, slot: int, works: Iterable[Any]) -> None:
        with _clock(run.cost, "wire"):
            for work in works:
                work.wait()
        with _clock(run.cost, "unpack"):
            for message in round_.receives:
                received, at = self._inbox(message, slot), 0
                run.cost.received_bytes += received.nbytes
                for copy in message.copies:
                    if message.start is not None:
                        values = received[at : at + copy.size].view(copy.rows, copy.columns)
                        copy.target_of(self._engine.flat(copy.target_param)).copy_(values)
                    at += copy.size
                    self._arrived(run, copy.target_param)

    def _arrived(self, run: _Run, param: int) -> None:
        self._count_down(run, param)
        run.from_others[param] -= 1
        if run.from_others[param] == 0:
            for copy in self._late.get(param, ()):
                self._copy(run, copy)

    def _copy_locally(self, run: _Run, copies: Iterable[Copy]) -> None:
        with _clock(run.cost, "local"):
            for copy in copies:
                self._copy(run, copy)

    def _copy(self, run: _Run, copy: Copy) -> None:
        copy.target_of(self._engine.flat(copy.target_param)).copy_(copy.source_of(self._source[copy.source_param]))
        self._count_down(run, copy.target_param)

    def _count_down(self, run: _Run, param: int) -> None:
        run.missing[param] -= 1
        if run.missing[param] == 0:
            with _clock(run.cost, "finish"):
                self._engine.finish(param)


@contextmanager
def _clock(cost: PushCost, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    setattr(cost, name, getattr(cost, name) + time.perf_counter() - started)
