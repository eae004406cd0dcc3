"""Our reshard behind vLLM's registry of weight transfers, for programs that drive vLLM's weight updates through it.

    engine = VLLMEngine(..., weight_transfer=True)
    connect(ReshardSync(...).push)
    llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})     # once
    llm.collective_rpc("start_weight_update")
    llm.collective_rpc("update_weights", kwargs={"update_info": {"step": 7}})       # on every rank of the job
    llm.collective_rpc("finish_weight_update")

Nothing of this package relies on it: vLLM's base class has changed three times from 0.20 to 0.32. Imports vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo

from megatron_sppo.rollout.vllm_options import WEIGHT_TRANSFER_BACKEND

Push = Callable[[int], object]


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing: the two ends met when the plan was made."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    step: int  # whose policy is pushed


class PlannedWeightTransfer(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Runs the push that :func:`connect` has named, in this process."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False
    _push: ClassVar[Push | None] = None

    @classmethod
    def connect(cls, push: Push | None) -> None:
        cls._push = None if push is None else staticmethod(push)

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """RuntimeError unless :func:`connect` came first."""
        self._connected()

    def start_weight_update(self) -> None:
        """A push begins and ends by itself."""

    def finish_weight_update(self) -> None:
        """A push begins and ends by itself."""

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Collective over the job, as a push is."""
        self._connected()(update_info.step)

    def shutdown(self) -> None:
        """The push belongs to the trainer."""

    @staticmethod
    def trainer_send_weights(iterator: object, trainer_args: object) -> None:
        """vLLM 0.26 asks for it and never calls it: what sends is connected."""
        raise NotImplementedError

    def _connected(self) -> Push:
        if self._push is None:
            raise RuntimeError("No push is connected to vLLM's weight transfer; call weight_transfer.connect(sync.push) first.")
        return self._push


def register() -> None:
    """Make the backend known to vLLM. Idempotent; before the engine is built."""
    if WEIGHT_TRANSFER_BACKEND not in WeightTransferEngineFactory._registry:  # noqa: SLF001 - it has no way to ask
        WeightTransferEngineFactory.register_engine(WEIGHT_TRANSFER_BACKEND, PlannedWeightTransfer)


def connect(push: Push | None) -> None:
    """What a weight update of this process's engine runs; ``None`` lets go of it."""
    PlannedWeightTransfer.connect(push)
