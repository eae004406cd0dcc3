"""Layouts without a model or vLLM: to print a plan before anything is built, and to check traced layouts against.

:class:`Cluster` says how many ranks there are and what they hold. Ranks of the trainer are numbered as Megatron does: TP fastest,
then DP, then PP (``tp-dp-pp``), or with the stages of a replica side by side (``tp-pp-dp``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.boxes import Boxes, RankLayout, Shapes
from megatron_sppo.reshard.catalogue import MoEModelConfig
from megatron_sppo.reshard.source import ShardedParameter, source_layout
from megatron_sppo.rollout.weight_table import Region, weight_regions
from megatron_sppo.weights.mapping import OUTPUT_LAYER, rule_for
from megatron_sppo.weights.rules import ColumnShards, GatedMLP, Replicated, VocabShards

VLLM_VOCAB_MULTIPLE = 64
Order = Literal["tp-dp-pp", "tp-pp-dp"]


@dataclass(frozen=True)
class Cluster:
    """A training layout and a rollout layout. Experts are cut ``expert_tp`` ways and spread over ``ep`` ranks of a stage."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1  # chunks of layers of a stage: stage 0 of 2 with 2 chunks holds the first and the third quarter
    dp: int = 1  # context-parallel ranks count here: they hold the same weights
    ep: int = 1
    expert_tp: int = 1
    rollout_tp: int = 1
    num_engines: int = 1
    rollout_ep: bool = False  # vLLM spreads whole experts over its TP ranks
    separate: bool = False  # rollout ranks come after the training ranks and train nothing
    ranks_per_node: int = 8
    order: Order = "tp-dp-pp"
    vocab_multiple: int = 1  # Megatron's vocabulary is padded to a multiple of TP times this

    def __post_init__(self) -> None:
        stage = self.tp * self.dp
        if stage % (self.ep * self.expert_tp):
            raise UserError(f"ep={self.ep} x expert_tp={self.expert_tp} does not divide the {stage} ranks of a stage; lower one.")
        if self.order == "tp-pp-dp" and self.pp > 1 and self.ep * self.expert_tp not in {1, self.tp}:
            raise UserError(
                f"order=tp-pp-dp needs ep x expert_tp = tp, as Megatron does, and ep={self.ep}, expert_tp={self.expert_tp}, "
                f"tp={self.tp} do not fit: use tp-dp-pp."
            )
        if not self.separate and self.num_rollout_ranks > self.num_train_ranks:
            raise UserError(
                f"{self.num_engines} engines of TP{self.rollout_tp} need more than the {self.num_train_ranks} training ranks; "
                "use fewer or place them separately."
            )

    @property
    def num_train_ranks(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def num_rollout_ranks(self) -> int:
        return self.rollout_tp * self.num_engines

    @property
    def world_size(self) -> int:
        return self.num_train_ranks + (self.num_rollout_ranks if self.separate else 0)

    @property
    def nodes(self) -> list[int]:
        return [rank // self.ranks_per_node for rank in range(self.world_size)]

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """(tp_rank, dp_rank, pp_rank) of a training rank."""
        rest, tp_rank = divmod(rank, self.tp)
        if self.order == "tp-dp-pp":
            pp_rank, dp_rank = divmod(rest, self.dp)
        else:
            dp_rank, pp_rank = divmod(rest, self.pp)
        return tp_rank, dp_rank, pp_rank


@dataclass(frozen=True)
class PaddedVocabShards(VocabShards):
    """With the vocabulary padded to a multiple of TP x ``multiple``, as a trainer may choose to."""

    multiple: int = 1

    def _bounds(self, tp_rank: int, tp: int) -> tuple[int, int]:
        rows = -(-self.vocab // (tp * self.multiple)) * self.multiple
        return tp_rank * rows, (tp_rank + 1) * rows


def _layer_names(hf: HFModelConfig) -> list[str]:
    """Megatron's names of one dense layer, those of Transformer Engine's fused norms left out; without the MLP for experts."""
    attention = ["input_layernorm.weight", "self_attention.linear_qkv.weight", "self_attention.linear_proj.weight"]
    attention += ["self_attention.linear_qkv.bias"] if hf.qkv_bias else []
    attention += ["self_attention.q_layernorm.weight", "self_attention.k_layernorm.weight"] if hf.qk_norm else []
    mlp = [] if isinstance(hf, MoEModelConfig) else ["mlp.linear_fc1.weight", "mlp.linear_fc2.weight"]
    return [*attention, "pre_mlp_layernorm.weight", *mlp]


def _experts(hf: MoEModelConfig, cluster: Cluster, layer: int, stage_rank: int) -> list[ShardedParameter]:
    """Router and this rank's experts, which are numbered through the expert-parallel group."""
    expert_tp_rank, ep_rank = stage_rank % cluster.expert_tp, stage_rank // cluster.expert_tp % cluster.ep
    at, prefix = f"model.layers.{layer}.mlp", f"decoder.layers.{layer}.mlp"
    found = [ShardedParameter(f"{prefix}.router.weight", Replicated(f"{at}.gate.weight", hf.num_experts), 0, 1)]
    per_rank = hf.num_experts // cluster.ep
    for local in range(per_rank):
        expert = f"{at}.experts.{ep_rank * per_rank + local}"
        gated = GatedMLP(f"{expert}.gate_proj.weight", f"{expert}.up_proj.weight", hf.expert_ffn_size)
        down = ColumnShards(f"{expert}.down_proj.weight", hf.expert_ffn_size)
        for name, rule in ((f"linear_fc1.weight{local}", gated), (f"linear_fc2.weight{local}", down)):
            found.append(ShardedParameter(f"{prefix}.experts.{name}", rule, expert_tp_rank, cluster.expert_tp))
    return found


def _layers(hf: HFModelConfig, cluster: Cluster, pp_rank: int) -> list[int]:
    """Of a stage, chunk by chunk."""
    per_chunk = hf.num_layers // (cluster.pp * cluster.vpp)
    starts = [(chunk * cluster.pp + pp_rank) * per_chunk for chunk in range(cluster.vpp)]
    return [layer for start in starts for layer in range(start, start + per_chunk)]


def check_divides(hf: HFModelConfig, cluster: Cluster) -> None:
    """UserError where the model cannot be cut as the cluster says."""
    stages = cluster.pp * cluster.vpp
    cuts = [
        (f"pp={cluster.pp} x vpp={cluster.vpp}", stages, hf.num_layers, "layers"),
        (f"tp={cluster.tp}", cluster.tp, hf.num_heads, "attention heads"),
        (f"rollout_tp={cluster.rollout_tp}", cluster.rollout_tp, hf.num_heads, "attention heads"),
    ]
    if isinstance(hf, MoEModelConfig):
        rollout = (hf.num_experts, "experts") if cluster.rollout_ep else (hf.expert_ffn_size, "rows of an expert")
        cuts += [
            (f"ep={cluster.ep}", cluster.ep, hf.num_experts, "experts"),
            (f"expert_tp={cluster.expert_tp}", cluster.expert_tp, hf.expert_ffn_size, "rows of an expert"),
            (f"rollout_tp={cluster.rollout_tp}", cluster.rollout_tp, *rollout),
        ]
    else:
        cuts += [
            (f"tp={cluster.tp}", cluster.tp, hf.ffn_size, "rows of the MLP"),
            (f"rollout_tp={cluster.rollout_tp}", cluster.rollout_tp, hf.ffn_size, "rows of the MLP"),
        ]
    for knob, parts, size, what in cuts:
        if size % parts:
            raise UserError(f"{knob} does not divide {size} {what}; choose a divisor.")
    for knob, tp in (("tp", cluster.tp), ("rollout_tp", cluster.rollout_tp)):
        if hf.num_kv_heads % tp and tp % hf.num_kv_heads:
            raise UserError(
                f"{knob}={tp} neither divides {hf.num_kv_heads} KV heads nor is a multiple of them; choose one that is."
            )


def megatron_layout(hf: HFModelConfig, cluster: Cluster, rank: int, shapes: Shapes) -> RankLayout:
    """What a training rank holds."""
    tp_rank, dp_rank, pp_rank = cluster.coordinates(rank)

    def parameter(name: str) -> ShardedParameter:
        rule = rule_for(name, hf)
        if isinstance(rule, VocabShards):
            rule = PaddedVocabShards(rule.hf, rule.vocab, cluster.vocab_multiple)
        return ShardedParameter(name, rule, tp_rank, cluster.tp)

    held = [parameter("embedding.word_embeddings.weight")] if pp_rank == 0 else []
    for layer in _layers(hf, cluster, pp_rank):
        held += [parameter(f"decoder.layers.{layer}.{name}") for name in _layer_names(hf)]
        if isinstance(hf, MoEModelConfig):
            held += _experts(hf, cluster, layer, dp_rank * cluster.tp + tp_rank)
    if pp_rank == cluster.pp - 1:
        held.append(parameter("decoder.final_layernorm.weight"))
        held += [parameter(OUTPUT_LAYER)] if cluster.pp > 1 or not hf.tied_embeddings else []
    return source_layout(held, shapes)


def _expert_boxes(hf: MoEModelConfig, cluster: Cluster, tp_rank: int, numbers: dict[str, int], params: dict[str, int]) -> Boxes:
    """vLLM's w13 [experts, gate rows then up rows, hidden] and w2 [experts, hidden, ffn]."""
    ep, tp = (cluster.rollout_tp, 1) if cluster.rollout_ep else (1, cluster.rollout_tp)
    per_rank, ffn, hidden = hf.num_experts // ep, hf.expert_ffn_size // tp, hf.hidden_size
    first, start = (tp_rank * per_rank, 0) if cluster.rollout_ep else (0, tp_rank * ffn)
    rows: list[tuple[int, ...]] = []
    for layer in range(hf.num_layers):
        at = f"model.layers.{layer}.mlp.experts"
        w13, w2 = (params.setdefault(f"{at}.{name}", len(params)) for name in ("w13_weight", "w2_weight"))
        for local in range(per_rank):
            expert = f"{at}.{first + local}"
            for half, name in enumerate(("gate_proj", "up_proj")):
                offset = (2 * local + half) * ffn * hidden
                rows.append((numbers[f"{expert}.{name}.weight"], start, 0, ffn, hidden, w13, offset, hidden))
            rows.append((numbers[f"{expert}.down_proj.weight"], 0, start, hidden, ffn, w2, local * ffn * hidden, ffn))
    return Boxes.of(rows)


def _region_row(region: Region, numbers: dict[str, int], shapes: Shapes, params: dict[str, int]) -> tuple[int, ...]:
    shape, param = shapes[region.hf_name], params.setdefault(region.param, len(params))
    tensor, start, count, at = numbers[region.hf_name], region.hf_start, region.count, region.param_start
    if len(shape) == 1:
        return tensor, 0, start, 1, count, param, at, count
    if region.dim == 0:
        return tensor, start, 0, count, shape[1], param, at * shape[1], shape[1]
    return tensor, 0, start, shape[0], count, param, 0, count


def vllm_layout(hf: HFModelConfig, cluster: Cluster, tp_rank: int, shapes: Shapes) -> RankLayout:
    """What a rank of a vLLM engine needs."""
    numbers = {name: number for number, name in enumerate(shapes)}
    params: dict[str, int] = {}
    multiple = VLLM_VOCAB_MULTIPLE
    vocab_rows = -(-hf.vocab_size // multiple) * multiple // cluster.rollout_tp
    regions = [region for region in weight_regions(hf, cluster.rollout_tp, tp_rank, vocab_rows) if region.count]
    if not isinstance(hf, MoEModelConfig):
        boxes = Boxes.of(_region_row(region, numbers, shapes, params) for region in regions)
        return RankLayout(tuple(params), boxes)
    regions = [region for region in regions if region.hf_name in shapes]  # no dense MLP
    routers = [f"model.layers.{layer}.mlp.gate.weight" for layer in range(hf.num_layers)]
    regions += [Region(name, 0, name, 0, hf.num_experts) for name in routers]
    dense = Boxes.of(_region_row(region, numbers, shapes, params) for region in regions)
    boxes = Boxes.concatenate([dense, _expert_boxes(hf, cluster, tp_rank, numbers, params)])
    return RankLayout(tuple(params), boxes)


def layouts(hf: HFModelConfig, cluster: Cluster, shapes: Shapes) -> tuple[list[RankLayout], list[RankLayout]]:
    """(sources, targets) of every rank of the cluster, for :func:`~megatron_sppo.reshard.planner.plan_copies`."""
    check_divides(hf, cluster)
    nothing = RankLayout.empty()
    sources = [megatron_layout(hf, cluster, rank, shapes) for rank in range(cluster.num_train_ranks)]
    sources += [nothing] * (cluster.world_size - cluster.num_train_ranks)
    shards = [vllm_layout(hf, cluster, tp_rank, shapes) for tp_rank in range(cluster.rollout_tp)]
    first = cluster.num_train_ranks if cluster.separate else 0
    targets = [nothing] * first + shards * cluster.num_engines
    return sources, targets + [nothing] * (cluster.world_size - len(targets))
