"""The planner on thousands of random pairs of layouts: every element written once, from the right place, with the fewest bytes.

What vLLM should end with is not taken from the layouts under test but from plain slices and concatenations of the HF tensors;
Megatron's boxes are held against ``Rule.load``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.boxes import RankLayout, Shapes
from megatron_sppo.reshard.catalogue import MoEModelConfig, hf_shapes
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.declared import VLLM_VOCAB_MULTIPLE, Cluster, layouts, megatron_layout
from megatron_sppo.reshard.planner import UnplannableLayout, plan_copies
from megatron_sppo.reshard.rounds import make_rounds
from megatron_sppo.reshard.shared_arenas import shared_starts
from megatron_sppo.reshard.traffic import measure_traffic
from megatron_sppo.weights.mapping import rule_for

BATCHES, PAIRS_PER_BATCH = 10, 250


def random_model(rng: random.Random) -> HFModelConfig:
    moe, family = rng.random() < 0.35, rng.choice(["qwen2", "qwen3"])
    kv_heads = rng.choice([1, 2, 4])
    model = {
        "family": "qwen3" if moe else family,
        "num_layers": rng.choice([2, 4]),
        "hidden_size": rng.choice([3, 8]),
        "num_heads": kv_heads * rng.choice([4, 8]) if kv_heads == 1 else kv_heads * 4,
        "num_kv_heads": kv_heads,
        "head_dim": rng.choice([2, 4]),
        "ffn_size": rng.choice([8, 24]),
        "vocab_size": rng.choice([5, 64, 101, 128, 130]),
        "tied_embeddings": rng.random() < 0.5,
        "rope_theta": 1e4,
        "norm_eps": 1e-6,
        "max_positions": 64,
        "eos_token_ids": (),
    }
    return MoEModelConfig(**model, num_experts=8, expert_ffn_size=8) if moe else HFModelConfig(**model)


def random_cluster(rng: random.Random, hf: HFModelConfig) -> Cluster:
    tp, pp, dp = rng.choice([1, 2, 4]), rng.choice([1, 2]), rng.choice([1, 2, 3])
    separate, rollout_tp = rng.random() < 0.3, rng.choice([1, 2, 4])
    most = 3 if separate else tp * pp * dp // rollout_tp
    if not most:
        rollout_tp, most = 1, tp * pp * dp
    moe = isinstance(hf, MoEModelConfig)
    order = rng.choice(["tp-dp-pp", "tp-pp-dp"])
    ep = rng.choice([e for e in (1, 2, 4, 8) if tp * dp % e == 0]) if moe else 1
    return Cluster(
        tp=tp,
        pp=pp,
        vpp=rng.choice([1, hf.num_layers // pp]),
        dp=dp,
        ep=ep,
        rollout_tp=rollout_tp,
        num_engines=rng.randint(1, most),
        rollout_ep=moe and rng.random() < 0.5,
        separate=separate,
        ranks_per_node=rng.choice([1, 2, 4, 8]),
        order=order if pp == 1 or ep in {1, tp} else "tp-dp-pp",
        vocab_multiple=rng.choice([1, 16, 64]),
    )


def with_expert_tp(rng: random.Random, cluster: Cluster) -> Cluster:
    sizes = [size for size in (1, 2, 4) if cluster.tp * cluster.dp % (size * cluster.ep) == 0]
    if cluster.order == "tp-pp-dp" and cluster.pp > 1:
        sizes = [size for size in sizes if size * cluster.ep in {1, cluster.tp}]
    return replace(cluster, expert_tp=rng.choice(sizes))


def hf_tensors(shapes: Shapes) -> dict[str, np.ndarray]:
    """Every element of the model has a number of its own, from 1."""
    tensors, first = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        tensors[name] = np.arange(first, first + size).reshape(shape)
        first += size
    return tensors


def megatron_values(layout: RankLayout, shapes: Shapes) -> list[np.ndarray]:
    """A rank's flat parameters, numbered as in `hf_tensors`; elements in no box are 0."""
    boxes = layout.boxes
    width = np.array([shape[-1] for shape in shapes.values()])[boxes.tensor]
    first = np.cumsum([1, *(int(np.prod(shape)) for shape in shapes.values())])[boxes.tensor] + boxes.row * width + boxes.column
    parent = np.repeat(np.arange(len(boxes)), boxes.size)
    within = np.arange(len(parent)) - np.repeat(np.cumsum(boxes.size) - boxes.size, boxes.size)
    row, column = np.divmod(within, boxes.columns[parent])
    index, numbers = (
        (boxes.offset[parent] + row * boxes.row_stride[parent] + column),
        first[parent] + row * width[parent] + column,
    )
    values = []
    for param in range(len(layout.params)):
        mine = boxes.param[parent] == param
        values.append(np.zeros(index[mine].max(initial=-1) + 1, dtype=np.int64))
        values[-1][index[mine]] = numbers[mine]
    return values


def chunk(tensor: np.ndarray, parts: int, index: int, dim: int = 0) -> np.ndarray:
    return np.array_split(tensor, parts, axis=dim)[index]


def expected_vllm(
    hf: HFModelConfig, cluster: Cluster, tp_rank: int, t: dict[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """vLLM's parameters by plain slices; padding is 0."""
    tp, copies = cluster.rollout_tp, max(1, cluster.rollout_tp // hf.num_kv_heads)
    kv = lambda x: chunk(x, tp // copies, tp_rank // copies)  # noqa: E731
    own = lambda x, dim=0: chunk(x, tp, tp_rank, dim)  # noqa: E731

    def vocabulary(x: np.ndarray) -> np.ndarray:
        return own(np.pad(x, ((0, -len(x) % VLLM_VOCAB_MULTIPLE), (0, 0))))

    yield "model.embed_tokens.weight", vocabulary(t["model.embed_tokens.weight"])
    for layer in range(hf.num_layers):
        at = f"model.layers.{layer}"
        attention = f"{at}.self_attn"
        for kind in ("weight", "bias") if hf.qkv_bias else ("weight",):
            q, k, v = (t[f"{attention}.{x}_proj.{kind}"] for x in "qkv")
            yield f"{attention}.qkv_proj.{kind}", np.concatenate([own(q), kv(k), kv(v)])
        yield f"{attention}.o_proj.weight", own(t[f"{attention}.o_proj.weight"], 1)
        names = ["input_layernorm", "post_attention_layernorm", *(["self_attn.q_norm", "self_attn.k_norm"] if hf.qk_norm else [])]
        for name in names:
            yield f"{at}.{name}.weight", t[f"{at}.{name}.weight"]
        if isinstance(hf, MoEModelConfig):
            yield f"{at}.mlp.gate.weight", t[f"{at}.mlp.gate.weight"]
            experts = np.arange(hf.num_experts)
            if cluster.rollout_ep:
                experts, cut = chunk(experts, tp, tp_rank), lambda x, dim: x
            else:
                cut = own
            parts = [[t[f"{at}.mlp.experts.{e}.{x}_proj.weight"] for x in ("gate", "up", "down")] for e in experts]
            yield f"{at}.mlp.experts.w13_weight", np.stack([np.concatenate([cut(g, 0), cut(u, 0)]) for g, u, _ in parts])
            yield f"{at}.mlp.experts.w2_weight", np.stack([cut(d, 1) for _, _, d in parts])
        else:
            gate, up = (own(t[f"{at}.mlp.{x}_proj.weight"]) for x in ("gate", "up"))
            yield f"{at}.mlp.gate_up_proj.weight", np.concatenate([gate, up])
            yield f"{at}.mlp.down_proj.weight", own(t[f"{at}.mlp.down_proj.weight"], 1)
    yield "model.norm.weight", t["model.norm.weight"]
    if not hf.tied_embeddings:
        yield "lm_head.weight", vocabulary(t["lm_head.weight"])


def flat_index(starts: list[np.ndarray], rank: np.ndarray, param: np.ndarray) -> np.ndarray:
    """Where each copy's parameter begins in all ranks' parameters laid end to end."""
    first = np.cumsum([0, *(len(s) for s in starts)])[:-1]
    return np.concatenate(starts)[first[rank] + param]


def elements(copies: Copies, side: str, starts: list[np.ndarray]) -> np.ndarray:
    """Index of every element of every copy on one side, row by row."""
    base = flat_index(starts, getattr(copies, side), getattr(copies, f"{side}_param")) + getattr(copies, f"{side}_offset")
    parent = np.repeat(np.arange(len(copies)), copies.size)
    within = np.arange(len(parent)) - np.repeat(np.cumsum(copies.size) - copies.size, copies.size)
    row, column = np.divmod(within, copies.columns[parent])
    return base[parent] + row * getattr(copies, f"{side}_stride")[parent] + column


def lay_out(values: list[list[np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All ranks' parameters end to end, and where each begins."""
    starts, at = [], 0
    for rank in values:
        sizes = [v.size for v in rank]
        starts.append(at + np.cumsum([0, *sizes])[:-1].astype(np.int64))
        at += sum(sizes)
    return np.concatenate([v.reshape(-1) for rank in values for v in rank]), starts


def check_pair(hf: HFModelConfig, cluster: Cluster, cap: int) -> None:
    shapes = hf_shapes(hf)
    tensors = hf_tensors(shapes)
    sources, targets = layouts(hf, cluster, shapes)
    copies = plan_copies(sources, targets, shapes, cluster.nodes, max_piece=cap // 4)
    rounds = make_rounds(copies.take(~copies.is_local), cluster.world_size, cap)
    moved = Copies.concatenate(copies.take(copies.is_local), rounds.copies)

    held = [megatron_values(source, shapes) for source in sources]
    source_values, source_starts = lay_out(held)
    expected = [
        dict(expected_vllm(hf, cluster, rank % cluster.rollout_tp, tensors)) if layout.params else {}
        for rank, layout in enumerate(targets, start=-cluster.num_train_ranks if cluster.separate else 0)
    ]
    wanted, target_starts = lay_out([[e[name] for name in layout.params] for e, layout in zip(expected, targets, strict=True)])
    index = elements(moved, "target", target_starts)
    found = np.zeros_like(wanted)
    found[index] = source_values[elements(moved, "source", source_starts)]
    assert np.array_equal(found, wanted)
    assert np.array_equal(np.bincount(index, minlength=len(wanted)), wanted > 0), "each element once, padding never"

    traffic = measure_traffic(moved, sources, targets, cluster.nodes, itemsize=1)
    assert np.array_equal(traffic.received, traffic.minimum) and traffic.ratio_to_minimum == 1.0
    for rank, target in enumerate(targets):
        have = np.concatenate([np.empty(0, np.int64), *held[rank]])
        need = np.concatenate([np.empty(0, np.int64), *(expected[rank][name].reshape(-1) for name in target.params)])
        assert traffic.minimum[rank] == (~np.isin(need[need > 0], have)).sum(), "needed less held, counted element by element"
    for side in (rounds.copies.source, rounds.copies.target):
        load = np.bincount(rounds.round * cluster.world_size + side, weights=rounds.copies.size)
        assert load.max(initial=0) <= cap


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_pairs_of_layouts(batch: int) -> None:
    rng = random.Random(batch)
    seen = set()
    for _ in range(PAIRS_PER_BATCH):
        hf = random_model(rng)
        cluster = with_expert_tp(rng, random_cluster(rng, hf))
        check_pair(hf, cluster, cap=rng.choice([200, 1000, 1 << 16]))
        seen.add((hf, cluster))
    assert len(seen) > 0.9 * PAIRS_PER_BATCH


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_megatron_boxes_are_what_the_loading_rules_hold(tp: int) -> None:
    rng = random.Random(tp)
    for hf in [model for model in (random_model(rng) for _ in range(40)) if not isinstance(model, MoEModelConfig)]:
        shapes = hf_shapes(hf)
        tensors = {name: torch.from_numpy(tensor) for name, tensor in hf_tensors(shapes).items()}
        read = lambda name, dim, a, b, tensors=tensors: tensors[name].narrow(dim, a, b - a)  # noqa: E731
        for rank in range(tp):
            layout = megatron_layout(hf, Cluster(tp=tp), rank, shapes)
            for name, values in zip(layout.params, megatron_values(layout, shapes), strict=True):
                loaded = rule_for(name, hf).load(read, rank, tp)
                flat = loaded.reshape(-1)
                assert np.array_equal(flat[: len(values)].numpy(), values) and not flat[len(values) :].any(), name


def dense(**changes: object) -> HFModelConfig:
    model = HFModelConfig("qwen2", 4, 64, 8, 2, 8, 128, 256, False, 1e4, 1e-6, 64, ())
    return replace(model, **changes)  # type: ignore[arg-type]


def planned(hf: HFModelConfig, cluster: Cluster) -> tuple[Copies, list[RankLayout], list[RankLayout]]:
    shapes = hf_shapes(hf)
    sources, targets = layouts(hf, cluster, shapes)
    return plan_copies(sources, targets, shapes, cluster.nodes), sources, targets


def test_equal_layouts_move_nothing() -> None:
    copies, *_ = planned(dense(), Cluster(tp=2, rollout_tp=2, dp=2, num_engines=2))
    assert copies.is_local.all() and len(copies)


def test_replicas_share_the_sending() -> None:
    """Four replicas of a big enough model feed one separate engine: none sends much more than a quarter."""
    hf, cluster = dense(hidden_size=512, ffn_size=2048), Cluster(dp=4, rollout_tp=1, separate=True)
    copies, sources, targets = planned(hf, cluster)
    sent = measure_traffic(copies, sources, targets, cluster.nodes, 1).sent
    assert sent[:4].max() < 1.15 * sent.sum() / 4


def test_the_own_node_is_asked_first() -> None:
    cluster = Cluster(tp=2, dp=2, rollout_tp=1, num_engines=4, ranks_per_node=2)
    copies, sources, targets = planned(dense(), cluster)
    assert measure_traffic(copies, sources, targets, cluster.nodes, 1).received_across.sum() == 0


def test_the_same_plan_twice() -> None:
    first, second = (planned(dense(), Cluster(tp=2, pp=2, dp=2, rollout_tp=4))[0] for _ in range(2))
    assert all(np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Copies))


def test_a_missing_piece_is_refused() -> None:
    hf, cluster = dense(), Cluster(tp=2, rollout_tp=1)
    shapes = hf_shapes(hf)
    sources, targets = layouts(hf, cluster, shapes)
    boxes = sources[1].boxes
    lost = list(shapes).index("model.layers.1.mlp.down_proj.weight")
    sources[1] = replace(sources[1], boxes=boxes.take(boxes.tensor != lost))
    with pytest.raises(UnplannableLayout, match=r"layers\.1\.mlp\.down_proj"):
        plan_copies(sources, targets, shapes, cluster.nodes)


def test_a_destination_outside_its_tensor_is_refused() -> None:
    hf, cluster = dense(), Cluster(rollout_tp=1)
    shapes = hf_shapes(hf)
    sources, targets = layouts(hf, cluster, shapes)
    targets[0] = replace(targets[0], boxes=replace(targets[0].boxes, rows=targets[0].boxes.rows + 1))
    with pytest.raises(UnplannableLayout, match="outside"):
        plan_copies(sources, targets, shapes, cluster.nodes)


@pytest.mark.parametrize("cap", [1 << 14, 1 << 16])
def test_rounds_are_few_and_cut_no_more_than_they_must(cap: int) -> None:
    hf, cluster = dense(hidden_size=256, ffn_size=1024), Cluster(tp=2, pp=2, dp=2, rollout_tp=4, num_engines=2)
    copies, *_ = planned(hf, cluster)
    moving = copies.take(~copies.is_local)
    rounds = make_rounds(moving, cluster.world_size, cap)
    busiest = max(np.bincount(side, weights=moving.size).max() for side in (moving.source, moving.target))
    channels = len(np.unique(moving.source * cluster.world_size + moving.target))
    assert rounds.num_rounds <= -(-busiest // (0.75 * cap))
    assert len(rounds.copies) <= len(moving) + channels * rounds.num_rounds, "no row is too wide here"


def test_rows_wider_than_a_share_of_the_cap_are_cut() -> None:
    hf, cluster = dense(hidden_size=256), Cluster(tp=1, pp=2, rollout_tp=2)
    copies, *_ = planned(hf, cluster)
    rounds = make_rounds(copies.take(~copies.is_local), cluster.world_size, cap=400)
    assert rounds.copies.columns.max() <= 100 and rounds.copies.size.sum() == copies.take(~copies.is_local).size.sum()


def test_what_a_rank_hands_over_in_a_round_lies_end_to_end() -> None:
    hf, cluster = dense(), Cluster(tp=2, pp=2, dp=2, rollout_tp=4, num_engines=2, ranks_per_node=4)
    copies, *_ = planned(hf, cluster)
    rounds = make_rounds(copies.take(~copies.is_local), cluster.world_size, cap=1 << 14)
    starts, nodes = shared_starts(rounds, cluster.nodes), np.asarray(cluster.nodes)
    is_near = nodes[rounds.copies.source] == nodes[rounds.copies.target]
    assert is_near.any() and not is_near.all() and np.array_equal(starts >= 0, is_near)
    for number in range(rounds.num_rounds):
        for rank in range(cluster.world_size):
            slot = is_near & (rounds.round == number) & (rounds.copies.source == rank)
            size = rounds.copies.size[slot]
            assert np.array_equal(starts[slot], np.cumsum(size) - size)


@pytest.mark.parametrize(
    ("changes", "knob"),
    [({"rollout_tp": 8, "tp": 8}, "tp=8"), ({"pp": 3}, "pp=3"), ({"tp": 16, "rollout_tp": 1}, "tp=16"), ({"vpp": 3}, "vpp=3")],
)
def test_a_layout_that_does_not_divide_names_the_knob(changes: dict[str, int], knob: str) -> None:
    with pytest.raises(UserError, match=knob):
        planned(dense(num_heads=28, num_kv_heads=4) if "tp" in changes else dense(), Cluster(**changes))


def test_an_order_that_megatron_refuses_is_refused() -> None:
    with pytest.raises(UserError, match="order=tp-pp-dp"):
        Cluster(tp=2, pp=2, dp=2, ep=4, order="tp-pp-dp")
