"""Run by torchrun: pushes of Megatron's weights into vLLM, bit for bit against vLLM that loaded the HF checkpoint.

    reshard_checks.py TP ROLLOUT_OPTIONS LAYOUTS KIND=FOLDER...

ROLLOUT_OPTIONS are `cpu_packed_weights` and `compiled`, comma-separated, or `-`; LAYOUTS of the trainer are TPxPP, the rest is
DP. Each FOLDER has a sibling FOLDER-new with other weights. Prints one line per check that held; one that does not raises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megatron_sppo.config.schema import ActorConfig, OptimizerConfig, RolloutConfig
from megatron_sppo.errors import WeightMismatch
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, ModelGroups, build_groups
from megatron_sppo.parallel.job import Job
from megatron_sppo.parallel.releases import release
from megatron_sppo.reshard.sync import ReshardSync
from megatron_sppo.rollout.vllm_engine import VLLMEngine
from megatron_sppo.rollout.vllm_versions import installed
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import load_hf_weights

PROMPTS = ([5, 6, 7, 8, 9, 10], [20, 3, 4] * 9, [250, 11])
CAP_BYTES = 1 << 17  # several rounds even for tiny models


def say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


def on_model(engine: VLLMEngine, function: Callable[[nn.Module], object]) -> object:
    return engine.llm.apply_model(function)[0]


def observable(model: nn.Module) -> dict[str, Tensor]:
    """Every live parameter, and what each linear layer and the head compute: packed weights can be seen in no other way."""
    found = {f"parameter {name}": param.detach().clone() for name, param in model.named_parameters() if param.numel()}
    generator = torch.Generator().manual_seed(3)
    for name, module in model.named_modules():
        if hasattr(module, "cpu_linear"):
            width = getattr(module, "input_size_per_partition", None) or module.embedding_dim
            found[f"output {name}"] = module.cpu_linear(torch.randn(3, width, generator=generator), module.weight, None).clone()
    return found


def snapshot(engine: VLLMEngine) -> dict[str, Tensor]:
    from vllm import SamplingParams

    found: dict[str, Tensor] = on_model(engine, observable)  # type: ignore[assignment]
    params = SamplingParams(max_tokens=12, temperature=0.0, logprobs=0, flat_logprobs=True, ignore_eos=True, detokenize=False)
    outputs = engine.llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
    for index, output in enumerate(outputs):
        found[f"tokens {index}"] = torch.tensor(output.outputs[0].token_ids)
        found[f"log-probs {index}"] = torch.tensor(output.outputs[0].logprobs.logprobs)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert found.keys() == expected.keys(), what
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not different, f"{what}: rank {dist.get_rank()} differs in {different}"


def addresses(engine: VLLMEngine) -> dict[str, int]:
    def read(model: nn.Module) -> dict[str, int]:
        return {name: param.data_ptr() for name, param in model.named_parameters()}

    return on_model(engine, read)  # type: ignore[return-value]


def check_compiled_is_eager(config: RolloutConfig, folder: Path, compiled: dict[str, Tensor]) -> None:
    """Within rounding, until a token differs: what a wrong all-reduce in compiled code does is far from it."""
    engine = VLLMEngine(replace(config, execution="eager"), folder, torch.float32, seed=0)
    eager = snapshot(engine)
    engine.close()
    for index in range(len(PROMPTS)):
        same = (compiled[f"tokens {index}"] == eager[f"tokens {index}"]).long().cumprod(0).sum()
        gap = (compiled[f"log-probs {index}"] - eager[f"log-probs {index}"])[:same].abs()
        assert same and gap.max() < 1e-4, f"compiled {compiled} against eager {eager}"


def ruin(engine: VLLMEngine) -> None:
    """NaN in every live parameter, padding included, as after a sleep that discards the weights."""

    def fill(model: nn.Module) -> None:
        for param in model.parameters():
            param.data.fill_(float("nan"))

    on_model(engine, fill)
    engine.forget_weights()


def train(policy: MegatronEngine) -> None:
    """One optimizer step; the gradient is the same everywhere, so that replicas stay equal."""
    policy.ddp.zero_grad_buffer()
    for param in policy.model.parameters():
        param.main_grad.fill_(0.01)
    policy.optimizer.step()


@contextmanager
def flipped_bit(engine: VLLMEngine, name: str, element: int, here: bool) -> Iterator[None]:
    """The lowest bit of one element of one parameter is wrong inside."""

    def flip(model: nn.Module) -> None:
        if here:
            model.get_parameter(name).data.view(-1).view(torch.int32)[element] ^= 1

    on_model(engine, flip)
    yield
    on_model(engine, flip)


def check_fault_is_named(sync: ReshardSync, engine: VLLMEngine) -> None:
    last = dist.get_world_size() - 1
    with flipped_bit(engine, "model.layers.1.mlp.down_proj.weight", 77, dist.get_rank() == last):
        try:
            sync.prove()
        except WeightMismatch as error:
            message = str(error)
        assert "model.layers.1.mlp.down_proj.weight[" in message and f"differs on rank {last}" in message, message
        assert message.count(" from rank ") == 1, message
    sync.prove()


def push_through_vllm(engine: VLLMEngine, sync: ReshardSync, step: int) -> None:
    """The same push, asked for through vLLM's registry of weight transfers."""
    from megatron_sppo.rollout.weight_transfer import connect

    connect(sync.push)
    engine.llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
    engine.llm.collective_rpc("start_weight_update")
    engine.llm.collective_rpc("update_weights", kwargs={"update_info": {"step": step}})
    engine.llm.collective_rpc("finish_weight_update")
    connect(None)
    if release(installed()) >= (0, 28):  # before, vLLM has no name for its weights
        assert engine.llm.llm_engine.get_weight_version() == str(step)


def check_layout(engine: VLLMEngine, hf: HFModelConfig, folder: Path, groups: ModelGroups, new: dict[str, Tensor]) -> None:
    layout = groups.layout
    config = ActorConfig(path=str(folder), tp=layout.tp, pp=layout.pp, dtype="fp32", optimizer=OptimizerConfig(lr=1e-3))
    policy = MegatronEngine(hf, config, groups, "lm", total_steps=1)
    load_hf_weights(policy.model, hf, folder.with_name(folder.name + "-new"), groups)
    policy.start_optimizer()
    sync = ReshardSync(Job.colocated(), hf, policy, engine, torch.float32, CAP_BYTES, verify_every=1)
    assert sync.plan.traffic.ratio_to_minimum == 1.0
    where = addresses(engine)
    ruin(engine)
    sync.push(0)
    assert_same(snapshot(engine), new, f"{layout} after the first push")
    train(policy)
    sync.push(1)
    train(policy)
    push_through_vllm(engine, sync, step=2)
    pushed = snapshot(engine)
    assert not torch.equal(pushed["log-probs 0"], new["log-probs 0"]), "training changed nothing"
    engine.load_weights(iter_hf_tensors(policy.model, hf, groups))
    assert_same(pushed, snapshot(engine), f"{layout} after training, against gather and load")
    assert addresses(engine) == where
    if all(mode == "direct" for mode in sync.modes):
        check_fault_is_named(sync, engine)
    say(f"PASS {folder.parent.name} TP{layout.tp} PP{layout.pp} DP{groups.dp}: {sync.plan.rounds.num_rounds} rounds")


def check_aliases(engine: VLLMEngine, hf: HFModelConfig, folder: Path, groups: ModelGroups, new: dict[str, Tensor]) -> None:
    """vLLM on the trainer's own memory computes what it did on its own. The engine cannot be pushed to in another way after."""
    config = ActorConfig(path=str(folder), tp=groups.layout.tp, dtype="fp32", optimizer=OptimizerConfig(lr=1e-3))
    policy = MegatronEngine(hf, config, groups, "lm", total_steps=1)
    load_hf_weights(policy.model, hf, folder.with_name(folder.name + "-new"), groups)
    policy.start_optimizer()
    own = addresses(engine)
    sync = ReshardSync(Job.colocated(), hf, policy, engine, torch.float32, CAP_BYTES, verify_every=1, alias=True)
    moved = [name for name, address in addresses(engine).items() if address != own[name]]
    assert any("gate_up_proj" in name for name in moved) and "are the trainer's own memory" in sync.describe()
    ruin_own = [name for name in own if name not in moved]
    on_model(engine, lambda model: [model.get_parameter(name).data.fill_(float("nan")) for name in ruin_own])
    engine.forget_weights()
    sync.push(0)
    assert_same(snapshot(engine), new, "aliased")
    train(policy)
    sync.push(1)
    pushed = snapshot(engine)
    assert not torch.equal(pushed["log-probs 0"], new["log-probs 0"]), "training changed nothing"
    engine.load_weights(iter_hf_tensors(policy.model, hf, groups))
    assert_same(pushed, snapshot(engine), "aliased after training, against gather and load")
    on_model(engine, lambda model: setattr(model.get_parameter(moved[0]), "data", model.get_parameter(moved[0]).data.clone()))
    with pytest.raises(RuntimeError, match=f"{moved[0]}.*rollout.alias_weights=false"):
        sync.push(2)
    say(f"PASS {folder.parent.name} aliases: {len(moved)} of {len(own)} parameters")


def main(tp: int, options: set[str], layouts: list[Layout], folders: dict[str, Path]) -> None:
    platform.start_distributed()
    platform.quiet_upstream()
    all_groups = build_groups(layouts, seed=0)
    config = RolloutConfig(
        tp=tp,
        max_prompt_tokens=48,
        max_response_tokens=16,
        cpu_kv_cache_gib=0.05,
        max_num_seqs=8,
        cpu_packed_weights="cpu_packed_weights" in options,
        execution="compiled" if "compiled" in options else "eager",
    )
    for folder in folders.values():
        hf = read_hf_config(folder)
        other = folder.with_name(folder.name + "-new")
        oracle = VLLMEngine(config, other, torch.float32, seed=0)
        new = snapshot(oracle)
        oracle.close()
        if config.execution == "compiled":
            check_compiled_is_eager(config, other, new)
        engine = VLLMEngine(config, folder, torch.float32, seed=0, weight_transfer=True)
        engine.kernel_forms_at_end = "at_end" in options
        for groups in all_groups:
            check_layout(engine, hf, folder, groups, new)
        same = [groups for groups in all_groups if groups.layout == Layout(tp=tp)]
        if same and not options:
            check_aliases(engine, hf, folder, same[0], new)
        engine.close()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sizes = (layout.split("x") for layout in sys.argv[3].split(","))
    named = (argument.split("=", 1) for argument in sys.argv[4:])
    main(
        int(sys.argv[1]),
        set(sys.argv[2].split(",")) - {"-"},
        [Layout(int(tp), int(pp)) for tp, pp in sizes],
        {kind: Path(folder) for kind, folder in named},
    )
