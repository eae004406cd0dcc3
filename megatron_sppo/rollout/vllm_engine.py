"""vLLM inside the training ranks: a world of W ranks and ``rollout.tp`` = t makes W / t engines of t neighbouring ranks.

Under ``external_launcher`` each rank of an engine runs the same scheduler on the same requests, so the ranks of one engine must
make the same calls in the same order; they do, because every rank runs the same program on the same prompts.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import device_memory, platform
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.dispatch import deal_prompts, response_seed
from megatron_sppo.rollout.engine import Decode, HFTensors, OnFinished, OnProgress
from megatron_sppo.rollout.exchange import exchange_rows
from megatron_sppo.rollout.orders import Answer
from megatron_sppo.rollout.vllm_options import (
    WEIGHT_TRANSFER_BACKEND,
    configure_environment,
    engine_options,
    sampling_params,
    scoring_params,
)
from megatron_sppo.rollout.weight_check import WeightCheck

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.outputs import CompletionOutput

    from megatron_sppo.rollout.live_weights import LiveWeights, OnLanded

    _Share = tuple[list[int], list[list[int]], list[SamplingParams]]  # response indices, prompts, how to sample


@contextmanager
def _own_random_state() -> Iterator[None]:
    """vLLM seeds and draws from torch's global generator; the trainer's must not notice."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if platform.is_gpu() else []):
        yield


def _require_free_memory(config: RolloutConfig) -> None:
    """UserError where this GPU has less memory free than vLLM would ask for, and refuse to start without."""
    if not platform.is_gpu():
        return
    gc.collect()
    device_memory.give_back_cached()
    free, total = device_memory.free_and_total()
    share = config.gpu_memory_utilization
    if free < share * total:
        raise UserError(
            f"rollout.gpu_memory_utilization={share:g} asks for {share * total / 1e9:.1f} GB of this GPU, which has "
            f"{free / 1e9:.1f} GB free beside the models: set it to {max(0.0, free / total - 0.01):.2f} or less, or offload=all."
        )


class _Progress:
    """What ``LLM.generate`` asks of a tqdm bar, handed on to a callback."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.n, self.total, self._on_progress = 0, total, on_progress
        self.format_dict, self.postfix = {"elapsed": float("inf")}, ""

    @classmethod
    def factory(cls, on_progress: OnProgress) -> Callable[..., Any]:
        """vLLM calls it twice: around the iterable of requests, which is left alone, and for the bar of finished ones."""
        return lambda iterable=None, *, total=0, **_: cls(on_progress, total) if iterable is None else iterable

    def update(self, count: int) -> None:
        self.n += count
        self._on_progress(self.n, self.total)

    def refresh(self) -> None: ...
    def close(self) -> None: ...


class VLLMEngine:
    """Implements :class:`~megatron_sppo.rollout.engine.RolloutEngine`. Building it is collective over the world."""

    def __init__(
        self, config: RolloutConfig, model_path: str | Path, dtype: torch.dtype, seed: int, weight_transfer: bool = False
    ) -> None:
        """``model_path`` is an HF folder; its weights are loaded. ``torch.distributed`` must have been started.

        ``weight_transfer``: weights can be pushed through vLLM's own registry too (:mod:`megatron_sppo.rollout.weight_transfer`).
        """
        world_size, rank = dist.get_world_size(), dist.get_rank()
        if world_size % config.tp:
            raise UserError(f"rollout.tp={config.tp} does not divide the {world_size} ranks; choose a divisor.")
        self._config = config
        self._model = read_hf_config(model_path)
        self._stop_token_ids = {*config.stop_token_ids, *self._model.eos_token_ids}
        self._num_engines, self._engine_index, self._tp_rank = world_size // config.tp, rank // config.tp, rank % config.tp
        self._asleep: set[str] = set()
        self._weights: LiveWeights | None = None
        self._lost = False  # whether the weights are neither a checkpoint's nor the policy's
        # vLLM 0.32 finds an FP8 weight's scale over the ranks of an engine.
        self.kernel_forms_at_end = config.quantization != "none" and config.tp > 1
        configure_environment()
        import vllm

        from megatron_sppo.rollout import vllm_internals

        self._internals = vllm_internals
        if not platform.is_gpu():
            self._prepare_cpu(model_path)
        vllm_internals.prepare()
        options = engine_options(config, model_path, dtype, seed)
        if weight_transfer:
            from megatron_sppo.rollout.weight_transfer import register

            register()
            options["weight_transfer_config"] = {"backend": WEIGHT_TRANSFER_BACKEND}
        _require_free_memory(config)
        with _own_random_state():
            self._llm: LLM | None = vllm.LLM(**options)
        platform.synchronize()  # vLLM may have moved this thread to another stream
        if not platform.is_gpu() and not config.cpu_packed_weights:
            vllm_internals.on_model(self._llm, vllm_internals.check_weights_are_live)

    def _prepare_cpu(self, model_path: str | Path) -> None:
        supported = self._internals.cpu_head_sizes()
        if self._model.head_dim not in supported:
            raise UserError(
                f"The model in {model_path!s} has attention heads of {self._model.head_dim} channels, which vLLM's CPU attention "
                f"lacks; use one with {', '.join(map(str, supported))}."
            )
        self._internals.prepare_cpu()
        self._internals.choose_cpu_weights(packed=self._config.cpu_packed_weights)
        self._internals.unlink_shared_memory()  # what a killed job with this port left behind
        dist.barrier(group=platform.host_group())
        atexit.register(self._internals.unlink_shared_memory)

    @property
    def llm(self) -> LLM:
        """vLLM's own object, for diagnostics."""
        assert self._llm is not None, "the engine was closed"
        return self._llm

    @property
    def _speaks(self) -> bool:
        """One rank of each engine reports its results."""
        return self._tp_rank == 0

    def generate(
        self,
        prompts: Prompts,
        plan: SamplingPlan,
        decode: Decode,
        on_progress: OnProgress | None = None,
        on_finished: OnFinished | None = None,
    ) -> Rollouts:
        """See the protocol. Tokens end with the stop token unless truncated; a greedy token's log-prob is at temperature 1."""
        share = indices, token_rows, params = self._share(prompts, plan)
        if on_finished is None:
            outputs = self._run(token_rows, params, on_progress)
            finished = zip(indices, (output.outputs[0] for output in outputs), strict=True)
            answers = [_answer(index, output, decode) for index, output in finished] if self._speaks else []
            return _gather_rollouts(prompts, plan, answers)
        answers = []
        for answer in self._in_steps(share, decode):
            answers.append(answer)
            on_finished(prompts, answer)
            if on_progress:
                on_progress(len(answers), len(indices))
        return _gather_rollouts(prompts, plan, answers)

    def stream(self, prompts: Prompts, plan: SamplingPlan, decode: Decode) -> Iterator[Answer]:
        """Responses as they finish, of this rank's engine alone; on its first rank, none elsewhere."""
        return self._in_steps(self._share(prompts, plan), decode)

    def _in_steps(self, share: _Share, decode: Decode) -> Iterator[Answer]:
        indices, token_rows, params = share
        self._refuse_if_lost()
        self._forget_prefixes()
        finished = self._internals.run_in_steps(self.llm, token_rows, params)
        while True:
            with _own_random_state():
                request, output = next(finished, (-1, None))
            if output is None:
                return
            if self._speaks:
                yield _answer(indices[request], output, decode)

    def _share(self, prompts: Prompts, plan: SamplingPlan) -> _Share:
        """What this rank's engine is asked: response indices, prompts, how to sample."""
        if plan.max_response_tokens > self._config.max_response_tokens:
            raise UserError(
                f"rollout.max_response_tokens={self._config.max_response_tokens} is less than the {plan.max_response_tokens} "
                "tokens that the sampling plan asks for; raise it."
            )
        mine = deal_prompts(prompts.tokens.lengths.tolist(), self._num_engines)[self._engine_index]
        count = plan.responses_per_prompt
        asked = [(prompt, sample) for prompt in mine for sample in range(count)]
        seeds = [response_seed(plan.seed, prompts.ids[prompt], sample) for prompt, sample in asked]
        token_rows = [row.tolist() for row in prompts.tokens.rows()]
        return (
            [prompt * count + sample for prompt, sample in asked],
            [token_rows[prompt] for prompt, _ in asked],
            [
                sampling_params(plan, self._stop_token_ids, seed, greedy=sample >= plan.num_samples)
                for (_, sample), seed in zip(asked, seeds, strict=True)
            ],
        )

    def score(self, sequences: Ragged) -> Ragged:
        """See the protocol."""
        mine = deal_prompts(sequences.lengths.tolist(), self._num_engines)[self._engine_index]
        rows = sequences.rows()
        outputs = self._run([rows[index].tolist() for index in mine], [scoring_params()] * len(mine), None)
        scores = {index: torch.tensor(output.prompt_logprobs.logprobs) for index, output in zip(mine, outputs, strict=True)}
        return exchange_rows(scores if self._speaks else {}, len(sequences), torch.float32)

    def load_weights(self, tensors: HFTensors) -> None:
        """See the protocol. Written in place by vLLM's own loaders; needs the weights' memory, not the KV cache's."""
        self._wake("weights")
        self._lost = True
        self._internals.load_weights(self.llm, tensors)
        self._forget_prefixes()
        self._lost = False

    def _forget_prefixes(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM still runs requests and kept its cached prefixes.")

    def verify_weights(self, tensors: HFTensors) -> None:
        """See the protocol."""
        self._wake("weights")
        params = self._internals.on_model(self.llm, lambda model: dict(model.named_parameters()))
        check = WeightCheck(self._model, self._config.tp, self._tp_rank, params)
        for name, tensor in tensors:
            check.compare(name, tensor)
        check.finish()

    def open_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> LiveWeights:
        """This rank's weights as places to write to; ``shapes`` are those of the model's HF tensors. Once, before any sleep."""
        from megatron_sppo.rollout.live_weights import LiveWeights
        from megatron_sppo.rollout.vllm_trace import trace_loaders

        dtype = self.llm.llm_engine.model_config.dtype
        trace = self._internals.on_model(self.llm, lambda model: trace_loaders(model, shapes, dtype))
        self._weights = LiveWeights(trace, self.kernel_forms_at_end)
        return self._weights

    def forget_weights(self) -> None:
        """The live weights are garbage from here on: nothing can be generated before all are written, padding included."""
        self._lost = True

    @contextmanager
    def overwriting(self, version: int, on_landed: OnLanded | None = None) -> Iterator[None]:
        """Inside, every weight is written through :meth:`open_weights`; needs the weights' memory, not the KV cache's.

        What is generated after carries ``version``, the step whose policy the weights are.
        Until the block has ended well the engine refuses to generate: its weights are neither the old nor the new ones.
        """
        assert self._weights is not None, "open_weights() comes first"
        self._wake("weights")
        lost, self._lost = self._lost, True
        self._weights.begin(lost, on_landed)
        yield
        self._weights.end()
        self._forget_prefixes()
        self._internals.set_weight_version(self.llm, version)
        self._lost = False

    @contextmanager
    def awake(self, until_push: bool = False) -> Iterator[None]:
        """See the protocol. Sleeps after, where there is a GPU and ``rollout.sleep`` is on."""
        self._wake("weights", "kv_cache")
        try:
            yield
        finally:
            if platform.is_gpu() and self._config.sleep:
                # Level 2 throws the weights away, level 1 brings them to host memory and back: for nothing if they are replaced.
                discards = until_push and self._weights is not None
                self._lost = self._lost or discards
                with device_memory.remapping():
                    self.llm.sleep(level=2 if discards else 1)
                self._asleep = {"weights", "kv_cache"}

    def close(self) -> None:
        """See the protocol."""
        self._llm = None
        gc.collect()  # vLLM frees its memory and groups when its cycles are collected
        if not platform.is_gpu():
            self._internals.unlink_shared_memory()

    def _wake(self, *tags: str) -> None:
        asleep = [tag for tag in tags if tag in self._asleep]
        if asleep:
            with device_memory.remapping():
                self.llm.wake_up(tags=asleep)
            self._asleep -= set(asleep)

    def _refuse_if_lost(self) -> None:
        if self._lost:
            raise RuntimeError("vLLM's weights were lost or half written; push the policy's before anything is generated.")

    def _run(
        self, token_rows: list[list[int]], params: list[SamplingParams], on_progress: OnProgress | None
    ) -> list[RequestOutput]:
        """Outputs in the order of ``token_rows``. An engine without prompts does nothing; no other engine waits for it."""
        self._refuse_if_lost()
        if not token_rows:
            return []
        bar = _Progress.factory(on_progress) if on_progress else False
        requests = [{"prompt_token_ids": row} for row in token_rows]
        # A cached prefix was computed in another batch and differs in its last bits: kept, it would make samples depend on what
        # the engine did before, and a resumed run would not repeat an uninterrupted one. Samples of one prompt still share it.
        self._forget_prefixes()
        with _own_random_state():
            outputs: list[RequestOutput] = self.llm.generate(requests, params, use_tqdm=bar)
        return outputs


def _answer(index: int, output: CompletionOutput, decode: Decode) -> Answer:
    tokens = list(output.token_ids)
    return Answer(index, tokens, output.logprobs.logprobs, output.finish_reason == "length", decode(tokens))


def _gather_rollouts(prompts: Prompts, plan: SamplingPlan, answers: Sequence[Answer]) -> Rollouts:
    """Each rank's ``answers`` become the global rollouts. Collective over the world."""
    num_responses = len(prompts) * plan.responses_per_prompt
    assert all(len(answer.tokens) == len(answer.logprobs) for answer in answers), "one log-prob per token"
    tokens = {answer.index: torch.tensor(answer.tokens, dtype=torch.int64) for answer in answers}
    logprobs = {answer.index: torch.tensor(answer.logprobs, dtype=torch.float32) for answer in answers}
    truncated = {answer.index: torch.tensor([answer.is_truncated], dtype=torch.uint8) for answer in answers}
    texts = {answer.index: torch.tensor(list(answer.text.encode()), dtype=torch.uint8) for answer in answers}
    return Rollouts(
        prompts=prompts,
        prompt_index_B=torch.arange(len(prompts)).repeat_interleave(plan.responses_per_prompt),
        response_tokens=exchange_rows(tokens, num_responses, torch.int64),
        engine_logprobs=exchange_rows(logprobs, num_responses, torch.float32),
        truncated_B=exchange_rows(truncated, num_responses, torch.uint8).values.bool(),
        texts=tuple(bytes(row.tolist()).decode() for row in exchange_rows(texts, num_responses, torch.uint8).rows()),
    )
