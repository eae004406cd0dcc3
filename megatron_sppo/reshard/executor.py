"""Carry out a plan: rounds of messages under a byte cap, copies on the rank while the wire is busy, memory bounded throughout.

Two rounds are in flight: while one travels, the one before is unpacked and copies on the rank run. Each direction has two
arenas of at most a cap, so staging is at most four caps, however large the model; what can be sent or received where it lies
takes none. What goes to a rank of the same machine is handed over in a shared arena where there is one: two slots, and none for
receiving. A parameter that takes memory while it is unfinished (a staged one) is begun only when its part from other ranks is
there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.messages import Copy, Handover, Message, RankRound, arena_elements, copy_table, rounds_of
from megatron_sppo.reshard.push_cost import PushCost
from megatron_sppo.reshard.rounds import Rounds
from megatron_sppo.reshard.shared_arenas import SharedArenas
from megatron_sppo.reshard.source import FlatParameters


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
        source: FlatParameters,
        target: Target | None,
        wire: torch.dtype,
        device: torch.device,
        group: dist.ProcessGroup | None,
        shared: SharedArenas | None = None,
    ) -> None:
        """The copies of all ranks that do not travel, and those that do. Ranks are those of ``group``.

        ``source`` are this rank's parameters by the plan's numbers, ``target`` those of its engine; elements travel as
        ``wire``, between ranks of a machine through ``shared`` if given.
        """
        self._source, self._target, self._wire, self._device, self._group = source, target, wire, device, group
        self._shared = shared
        starts = np.full(len(rounds.copies), -1) if shared is None else shared.starts
        self._rounds = rounds_of(rounds, starts, rank, self._sends_in_place, self._receives_in_place)
        mine = local.take(local.source == rank)
        self._local = copy_table(mine.take(mine.order.argsort(kind="stable")))
        received = [copy for round_ in self._rounds for message in round_.receives for copy in message.copies]
        received += [handover.copy for round_ in self._rounds for handover in round_.takes]
        self._from_others = Counter(copy.target_param for copy in received)
        self._missing = self._from_others + Counter(copy.target_param for copy in self._local)
        self._late: dict[int, list[Copy]] = defaultdict(list)
        for copy in self._local:
            if self._is_late(copy):
                self._late[copy.target_param].append(copy)
        self._arena_elements = {
            "send": max((arena_elements(round_.sends) for round_ in self._rounds), default=0),
            "receive": max((arena_elements(round_.receives) for round_ in self._rounds), default=0),
        }
        self._arenas: dict[tuple[str, int], Tensor] = {}  # by direction and slot, while a push goes on

    def _sends_in_place(self, copy: Copy) -> bool:
        return copy.leaves_one_stretch and self._source.lies_there_as(copy.source_param, self._wire)

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

    @property
    def staging_bytes(self) -> int:
        """Of all arenas of this rank."""
        arenas = 2 * sum(self._arena_elements.values()) * self._wire.itemsize
        return arenas + (self._shared.nbytes if self._shared else 0)

    @torch.no_grad()
    def run(self) -> PushCost:
        """Write every parameter of every engine. Collective over the plan's ranks."""
        run = _Run(self._missing.copy(), self._from_others.copy())
        self._arenas = {
            (direction, slot): torch.empty(elements, dtype=self._wire, device=self._device)
            for direction, elements in self._arena_elements.items()
            for slot in range(2)
        }
        prompt = [copy for copy in self._local if not self._is_late(copy)]
        share = -(-len(prompt) // max(1, len(self._rounds)))
        in_flight: tuple[RankRound, int, list[Any]] | None = None
        for number, round_ in enumerate(self._rounds):
            self._put(run, round_.puts)
            works = self._launch(run, round_, number % 2)
            self._copy_locally(run, prompt[number * share : (number + 1) * share])
            if in_flight is not None:
                self._land(run, *in_flight)
            in_flight = (round_, number % 2, works)
            self._take(run, round_.takes)
        if in_flight is None:
            self._copy_locally(run, prompt)
        else:
            self._land(run, *in_flight)
        assert not run.missing.total(), "a plan writes every parameter to its end"
        self._arenas = {}
        self._source.release()
        return run.cost

    def _put(self, run: _Run, puts: Iterable[Handover]) -> None:
        """Fill this rank's shared slot."""
        if self._shared is None:
            return
        with run.cost.clock("pack"):
            self._shared.begin_round()
            for sender, start, copy in puts:
                values = copy.source_of(self._source[copy.source_param])
                copy.packed_in(self._shared.slot(sender), start).copy_(values)
            self._shared.signal()

    def _take(self, run: _Run, takes: Iterable[Handover]) -> None:
        """Unpack from the slots of others."""
        if self._shared is None:
            return
        with run.cost.clock("wire"):
            self._shared.wait()
        with run.cost.clock("unpack"):
            for sender, start, copy in takes:
                values = copy.packed_in(self._shared.slot(sender), start)
                copy.target_of(self._engine.flat(copy.target_param)).copy_(values)
                run.cost.received_bytes += values.nbytes
                self._arrived(run, copy.target_param)

    def _launch(self, run: _Run, round_: RankRound, slot: int) -> list[Any]:
        with run.cost.clock("pack"):
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
            copy.packed_in(packed, at).copy_(values)
            at += copy.size
        return packed

    def _land(self, run: _Run, round_: RankRound, slot: int, works: Iterable[Any]) -> None:
        with run.cost.clock("wire"):
            for work in works:
                work.wait()
        with run.cost.clock("unpack"):
            for message in round_.receives:
                received, at = self._inbox(message, slot), 0
                run.cost.received_bytes += received.nbytes
                for copy in message.copies:
                    if message.start is not None:
                        copy.target_of(self._engine.flat(copy.target_param)).copy_(copy.packed_in(received, at))
                    at += copy.size
                    self._arrived(run, copy.target_param)

    def _arrived(self, run: _Run, param: int) -> None:
        self._count_down(run, param)
        run.from_others[param] -= 1
        if run.from_others[param] == 0:
            for copy in self._late.get(param, ()):
                self._copy(run, copy)

    def _copy_locally(self, run: _Run, copies: Iterable[Copy]) -> None:
        with run.cost.clock("local"):
            for copy in copies:
                self._copy(run, copy)

    def _copy(self, run: _Run, copy: Copy) -> None:
        copy.target_of(self._engine.flat(copy.target_param)).copy_(copy.source_of(self._source[copy.source_param]))
        self._count_down(run, copy.target_param)

    def _count_down(self, run: _Run, param: int) -> None:
        run.missing[param] -= 1
        if run.missing[param] == 0:
            with run.cost.clock("finish"):
                self._engine.finish(param)
