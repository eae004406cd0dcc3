"""Run under torchrun: HF folder -> Megatron -> HF folder, for each layout and each HF folder.

    torchrun --nproc-per-node 2 weights_roundtrip.py SCRATCH 2x1,1x2 KIND=FOLDER ...     (layouts are TPxPP, the rest is DP)

Prints one line per check; any failed check raises, and torchrun then exits with an error.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.module import Float16Module
from torch import Tensor, nn

from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.gpt import build_gpt, transformer_config
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, ModelGroups, build_groups, is_main
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.hf_folder import save_hf_folder
from megatron_sppo.weights.load_hf import SafetensorsFolder, load_hf_weights

POISON = float("nan")


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)


def read_folder(folder: Path) -> dict[str, Tensor]:
    reader = SafetensorsFolder(folder)
    return {name: reader.read(name, 0, 0, reader.shape(name)[0]) for name in reader.names()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())}"
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), f"{what}: {name}"


def model_config(folder: Path, layout: Layout, dtype: str) -> ModelConfig:
    return ModelConfig(path=str(folder), dtype=dtype, tp=layout.tp, pp=layout.pp)  # type: ignore[arg-type]


def loaded_model(folder: Path, hf: HFModelConfig, groups: ModelGroups, head: str = "lm", dtype: str = "fp32") -> nn.Module:
    """A model whose every parameter was NaN before loading, so that one left out shows."""
    model = build_gpt(hf, model_config(folder, groups.layout, dtype), groups, head)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if head == "lm" or not name.startswith("output_layer"):
            nn.init.constant_(parameter, POISON)
    load_hf_weights(model, hf, folder, groups)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return model


def collect(model: nn.Module, hf: HFModelConfig, groups: ModelGroups, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    pairs = [(name, tensor.clone()) for name, tensor in iter_hf_tensors(model, hf, groups, dtype)]
    assert len({name for name, _ in pairs}) == len(pairs), "each HF tensor once"
    orders: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(orders, [name for name, _ in pairs])
    assert all(a == b for a, b in pairwise(orders)), "the same order on every rank"
    return dict(pairs)


def check_language_model(folder: Path, hf: HFModelConfig, groups: ModelGroups, output: Path) -> None:
    expected = read_folder(folder)
    model = loaded_model(folder, hf, groups)
    assert_equal(collect(model, hf, groups), expected, "exported in fp32")
    rounded = {name: tensor.bfloat16() for name, tensor in expected.items()}
    assert_equal(collect(model, hf, groups, torch.bfloat16), rounded, "exported in bf16")
    save_hf_folder(model, hf, groups, folder, output, max_shard_bytes=50_000)
    assert_equal(read_folder(output), expected, "saved")
    assert len(list(output.glob("*.safetensors"))) > 1


def check_wrapped_bf16(folder: Path, hf: HFModelConfig, groups: ModelGroups) -> None:
    """Loading and exporting through Megatron's wrappers, whose parameters live in one flat buffer."""
    expected = {name: tensor.bfloat16() for name, tensor in read_folder(folder).items()}
    inner = loaded_model(folder, hf, groups, dtype="bf16")
    mcore = transformer_config(hf, model_config(folder, groups.layout, "bf16"))
    with groups.active():
        model = DistributedDataParallel(
            mcore,
            DistributedDataParallelConfig(use_distributed_optimizer=True),
            Float16Module(mcore, inner),
            pg_collection=groups.pg,
        )
    load_hf_weights(model, hf, folder, groups)
    assert_equal(collect(model, hf, groups), expected, "wrapped, bf16")


def check_critic(folder: Path, hf: HFModelConfig, groups: ModelGroups) -> None:
    """The trunk makes the round trip; the head keeps its fresh values and is not exported."""
    model = loaded_model(folder, hf, groups, head="value")
    if groups.is_last_stage:
        assert model.output_layer.weight.eq(0).all() and model.output_layer.bias.eq(0).all()  # type: ignore[union-attr]
    expected = {name: tensor for name, tensor in read_folder(folder).items() if name != "lm_head.weight"}
    assert_equal(collect(model, hf, groups), expected, "critic")


def check_refused_output(folder: Path, hf: HFModelConfig, groups: ModelGroups) -> None:
    """Every rank gets the user's error; none hangs in a collective."""
    model = loaded_model(folder, hf, groups)
    with pytest.raises(UserError, match="overwrite its own source"):
        save_hf_folder(model, hf, groups, folder, folder)


def check_timeouts(all_groups: list[ModelGroups]) -> None:
    """Megatron's groups wait as long as the world that they are cut from."""
    for groups in all_groups:
        for group in (groups.pg.tp, groups.pg.pp, groups.pg.dp, groups.pg.dp_cp):
            assert group._get_backend(platform.device()).options._timeout == timedelta(minutes=7)


def main(scratch: Path, layouts: list[Layout], folders: dict[str, Path]) -> None:
    platform.start_distributed(timeout=timedelta(minutes=7))
    platform.quiet_upstream()
    all_groups = build_groups(layouts, seed=0)
    check_timeouts(all_groups)
    for kind, folder in folders.items():
        hf = read_hf_config(folder)
        for groups in all_groups:
            check_language_model(folder, hf, groups, scratch / f"{kind}-tp{groups.layout.tp}-pp{groups.layout.pp}")
            check_critic(folder, hf, groups)
            check_wrapped_bf16(folder, hf, groups)
            say(f"PASS {kind} tp{groups.layout.tp} pp{groups.layout.pp} dp{groups.dp}")
    check_refused_output(folder, hf, all_groups[0])
    say("PASS refused output")
    dist.destroy_process_group()


if __name__ == "__main__":
    sizes = (layout.split("x") for layout in sys.argv[2].split(","))
    named = (argument.split("=", 1) for argument in sys.argv[3:])
    main(Path(sys.argv[1]), [Layout(int(tp), int(pp)) for tp, pp in sizes], {kind: Path(folder) for kind, folder in named})
