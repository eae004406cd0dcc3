"""Plans for declared clusters: figures that a person can check by hand, and advice that holds when it is followed."""

from __future__ import annotations

import dataclasses

import pytest

from megatron_sppo.reshard.alias import aliasable_share, identical_params
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import Cluster, layouts
from megatron_sppo.reshard.published import PUBLISHED
from megatron_sppo.reshard.report import advise, plan_report

CAP = 32 << 20
QWEN_7B = PUBLISHED["Qwen2.5-7B"]
# 28 layers of 3584 x 3584 x 2 + 3584 x 512 x 2 + 3 x 3584 x 18944, two vocabularies of 152064 x 3584; norms and biases beside.
BYTES_7B = 2 * (28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944) + 2 * 152064 * 3584)


def test_half_of_each_shard_moves_where_two_stages_become_one() -> None:
    report = plan_report(QWEN_7B, Cluster(tp=4, pp=2, rollout_tp=4, num_engines=2), CAP)
    row = report.row()
    assert row["received_per_rank_max"] == pytest.approx(BYTES_7B / 4 / 2, rel=1e-3)
    assert row["gather_per_rank"] == pytest.approx(BYTES_7B / 4 / 2 + BYTES_7B * 3 / 4, rel=1e-3)
    assert row["ratio_to_minimum"] == 1.0 and row["received_across_nodes"] == 0


def test_equal_layouts_move_nothing_and_can_share_everything() -> None:
    report = plan_report(QWEN_7B, Cluster(tp=4, dp=2, rollout_tp=4, num_engines=2), CAP)
    assert report.traffic.received.sum() == 0 and report.num_rounds == 0 and report.aliasable == 1.0
    assert "rollout.alias_weights=true" in " ".join(advise(QWEN_7B, report, CAP))


def test_what_differs_between_equal_layouts_is_qkv_of_several_groups() -> None:
    """At TP2 a rank of the 7B has two KV groups, which Megatron interleaves."""
    shapes = hf_shapes(QWEN_7B)
    sources, targets = layouts(QWEN_7B, Cluster(tp=2, rollout_tp=2), shapes)
    shared = identical_params(sources[0], targets[0])
    apart = {name.split(".", 3)[-1] for index, name in enumerate(targets[0].params) if index not in shared}
    assert apart == {"self_attn.qkv_proj.weight", "self_attn.qkv_proj.bias"}
    assert {sources[0].params[shared[index]].split(".", 3)[-1] for index in shared} >= {"mlp.linear_fc1.weight"}
    assert aliasable_share(sources[0], targets[0]) == pytest.approx(0.939, abs=1e-3)  # 28 x 3584 x 4608 of all parameters


def test_advice_to_reorder_ranks_holds() -> None:
    cluster = Cluster(tp=4, pp=2, dp=2, rollout_tp=4, num_engines=4)
    report = plan_report(QWEN_7B, cluster, CAP)
    (sentence,) = advise(QWEN_7B, report, CAP)
    assert sentence.startswith("rank order tp-pp-dp") and "0 B instead of 30.46 GB from other nodes" in sentence
    followed = plan_report(QWEN_7B, dataclasses.replace(cluster, order="tp-pp-dp"), CAP)
    assert followed.traffic.received_across.sum() == 0


def test_advice_to_pad_the_vocabulary_holds() -> None:
    odd = dataclasses.replace(QWEN_7B, num_layers=1, vocab_size=151_643)
    cluster = Cluster(tp=4, rollout_tp=4)
    report = plan_report(odd, cluster, CAP)
    assert report.traffic.received.sum() > 0
    (sentence,) = [advice for advice in advise(odd, report, CAP) if advice.startswith("a vocabulary padded to a multiple of 64")]
    assert "other nodes" not in sentence, "there is one node"
    followed = plan_report(odd, dataclasses.replace(cluster, vocab_multiple=16), CAP)
    assert followed.traffic.received.sum() == 0
