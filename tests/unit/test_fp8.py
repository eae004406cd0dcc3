from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import is_first_last_bf16_layer

from megatron_sppo.config.fp8 import MULTIPLES, check_fp8, check_fp8_pair, row_multiple
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config, ModelConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.gpt import check_layers, transformer_config
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.models.packing import RowLayout, pack
from megatron_sppo.plan.shapes import KNOWN
from megatron_sppo.ragged import Ragged

SEVEN_B = KNOWN["DeepSeek-R1-Distill-Qwen-7B"]
TINY = HFModelConfig("qwen2", 4, 192, 6, 2, 32, 640, 100, True, 1e4, 1e-6, 512, ())


def actor(*overrides: str) -> ModelConfig:
    return load_config(Config, [], ["actor.path=m", "data.train=a.jsonl", *(f"actor.{word}" for word in overrides)]).actor


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
    st.sampled_from(sorted(MULTIPLES)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_every_rank_multiplies_whole_units_of_tokens(
    lengths: list[int], recipe: str, tp: int, cp: int, sequence_parallel: bool
) -> None:
    model = actor(f"fp8.recipe={recipe}", f"tp={tp}", f"cp={cp}", f"sequence_parallel={sequence_parallel and tp > 1}")
    rows = Ragged.from_rows([[index + 1] * n for index, n in enumerate(lengths)], torch.int64)
    layouts = [RowLayout(row_multiple(model), cp, rank) for rank in range(cp)]
    parts = [pack(rows, range(len(lengths)), layout, torch.device("cpu")) for layout in layouts]
    for part in parts:
        assert part.tokens_T.numel() % (tp if model.sequence_parallel else 1) == 0
        tokens_multiplied = part.tokens_T.numel() // (tp if model.sequence_parallel else 1)
        assert tokens_multiplied % MULTIPLES[recipe] == 0
    # The padding is read by nobody: what the losses may ask for are the sequences' own positions, each held by one rank.
    for index, (start, length) in enumerate(zip(parts[0].starts_S.tolist(), parts[0].lengths_S.tolist(), strict=True)):
        read = [part.tokens_T[part.reads(torch.arange(start, start + length)).local_r] for part in parts]
        assert torch.cat(read).tolist() == [index + 1] * length


@given(st.sampled_from(["delayed", "tensorwise", "blockwise"]), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_padding_is_one_sequence_of_its_own(recipe: str, lengths: list[int]) -> None:
    layout = RowLayout(row_multiple(actor(f"fp8.recipe={recipe}")))
    packed = pack(Ragged.from_rows([[1] * n for n in lengths], torch.int64), range(len(lengths)), layout, torch.device("cpu"))
    bounds = packed.row.cu_seqlens_q.tolist()
    assert bounds[: len(lengths)] == packed.starts_S.tolist() and bounds[len(lengths)] == sum(lengths)
    assert bounds[-1] == -(-sum(lengths) // MULTIPLES[recipe]) * MULTIPLES[recipe]
    assert packed.positions_T[sum(lengths) :].tolist() == list(range(bounds[-1] - sum(lengths)))
    assert not packed.tokens_T[sum(lengths) :].any()


def test_megatron_is_told_the_recipe_and_the_layers_in_bf16() -> None:
    config = transformer_config(TINY, actor("fp8.recipe=tensorwise", "fp8.bf16_first_layers=1", "fp8.bf16_last_layers=2"))
    assert config.fp8 == "hybrid" and config.fp8_recipe == Fp8Recipe.tensorwise
    assert [is_first_last_bf16_layer(config, layer) for layer in range(4)] == [True, False, True, True]
    delayed = transformer_config(TINY, actor("fp8.recipe=delayed"))
    assert (delayed.fp8_recipe, delayed.fp8_amax_history_len, delayed.fp8_amax_compute_algo) == ("delayed", 1024, "max")
    assert transformer_config(TINY, actor()).fp8 is None
    assert not config.fp8_param
    assert transformer_config(TINY, actor("fp8.recipe=blockwise", "fp8.parameters=true")).fp8_param


def test_without_fp8_every_layer_is_in_bf16_anyway() -> None:
    check_fp8("actor", actor("fp8.bf16_last_layers=2"), "cpu", SEVEN_B)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise"])
@pytest.mark.parametrize("name", ["DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B", "Qwen2.5-32B"])
def test_published_models_take_every_recipe(name: str, recipe: str) -> None:
    for tp in (1, 2):
        check_fp8("actor", actor(f"fp8.recipe={recipe}", f"tp={tp}"), "gpu", KNOWN[name])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fp8.recipe=delayed dtype=fp32", "actor.fp8.recipe=delayed computes the rest in bf16: set actor.dtype=bf16"),
        (
            "fp8.recipe=delayed fp8.bf16_first_layers=1",
            "actor.fp8.bf16_first_layers=1 does not go with actor.fp8.recipe=delayed, .*: set actor.fp8.recipe=tensorwise",
        ),
        (
            "fp8.recipe=tensorwise fp8.bf16_first_layers=15 pp=2",
            "actor.fp8.bf16_first_layers=15 exceeds the 14 layers of a pipeline stage: set it to 14 or less",
        ),
        ("fp8.parameters=true", "actor.fp8.parameters=true goes with FP8 products alone: set actor.fp8.recipe=tensorwise"),
        (
            "fp8.recipe=delayed fp8.parameters=true",
            "actor.fp8.parameters=true needs scales from the start, .* set actor.fp8.recipe=tensorwise",
        ),
        (
            "fp8.recipe=tensorwise fp8.parameters=true optimizer.distributed=false",
            "actor.fp8.parameters=true is cast from shards .* set actor.optimizer.distributed=true",
        ),
    ],
)
def test_mistakes(words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_fp8("actor", actor(*words.split()), "gpu", SEVEN_B)


def test_delayed_scales_of_two_models_over_other_ranks() -> None:
    delayed, halved = actor("fp8.recipe=delayed"), actor("fp8.recipe=delayed", "tp=2")
    for pair in ((delayed, delayed), (halved, actor("fp8.recipe=tensorwise")), (actor(), halved)):
        check_fp8_pair(*pair)
    with pytest.raises(UserError, match=r"critic.tp=1 and critic.cp=1 are not actor.tp=2 .* set critic.fp8.recipe=tensorwise"):
        check_fp8_pair(halved, delayed)


def test_a_width_that_the_kernels_do_not_take() -> None:
    sentence = (
        r"actor.fp8.recipe=blockwise multiplies in units of 128, and the actor's hidden size at actor.tp=2 is 192: "
        r"set actor.fp8.recipe=tensorwise or lower actor.tp"
    )
    with pytest.raises(UserError, match=sentence):
        check_fp8("actor", actor("fp8.recipe=blockwise", "tp=2"), "gpu", TINY)
    check_fp8("actor", actor("fp8.recipe=tensorwise", "tp=2"), "gpu", TINY)


def test_a_machine_without_the_kernels() -> None:
    model = actor("fp8.recipe=tensorwise")
    with pytest.raises(UserError, match=r"needs a GPU with FP8 tensor cores: set actor.fp8.recipe=none"):
        check_fp8("actor", model, "cpu", None)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"needs Transformer Engine, which is not installed"):
            check_layers("actor", model)
