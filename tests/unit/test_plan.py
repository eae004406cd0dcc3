"""`megatron-sppo plan`: figures against calculations by hand, the verdict, its changes, and what a user reads."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_sppo.cli import main
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config, FP8Config, ModelConfig, OptimizerConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.flops import forward_flops, layer_weights
from megatron_sppo.parallel.gpus import GPUS
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.changes import fits, nearest, smaller_models
from megatron_sppo.plan.engine_memory import EngineMemory, kv_bytes_per_token
from megatron_sppo.plan.machines import Machines
from megatron_sppo.plan.memory import PHASES, Memory, totals
from megatron_sppo.plan.ranks import coordinates, describe_ranks
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.shapes import KNOWN, model_shape
from megatron_sppo.plan.times import Times
from megatron_sppo.plan.traffic import Push
from megatron_sppo.plan.trainer_memory import ModelState, Shard, parameters, row_tokens
from megatron_sppo.reshard.catalogue import hf_shapes

H100 = GPUS["h100"]
SEVEN = KNOWN["DeepSeek-R1-Distill-Qwen-7B"]
GIVEN = (
    "actor.path=models/DeepSeek-R1-Distill-Qwen-7B",
    "data.train=[a.jsonl]",
    "actor.tp=4",
    "critic.tp=4",
    "actor.recompute=full",
    "critic.recompute=full",
    "rollout.tp=4",
    "rollout.gpu_memory_utilization=0.15",
)


def setup(*overrides: str, nodes: int = 1, gpus: int = 4, gpu: str = "h100") -> Setup:
    return Setup.of(load_config(Config, [], [*GIVEN, *overrides]), Machines(nodes, gpus, GPUS[gpu]))


def memory(*overrides: str, **machines: int) -> Memory:
    return Memory(setup(*overrides, **machines), Assumptions())


# Billions of parameters as the models' cards give them.
CARDS = {
    "Qwen2.5-0.5B": 0.49,
    "Qwen2.5-1.5B": 1.54,
    "DeepSeek-R1-Distill-Qwen-1.5B": 1.78,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.62,
    "Qwen2.5-14B": 14.77,
    "Qwen2.5-32B": 32.76,
    "Qwen2.5-72B": 72.71,
    "Qwen3-0.6B": 0.60,
    "Qwen3-1.7B": 1.72,
    "Qwen3-4B": 4.02,
    "Qwen3-8B": 8.19,
    "Qwen3-14B": 14.77,
    "Qwen3-32B": 32.76,
}


@pytest.mark.parametrize(("name", "billions"), CARDS.items())
def test_shapes_have_the_parameters_of_the_model_cards(name: str, billions: float) -> None:
    counted = sum(math.prod(shape) for shape in hf_shapes(KNOWN[name]).values())
    assert counted / 1e9 == pytest.approx(billions, abs=0.006)
    assert parameters(KNOWN[name], 1, 1, "lm") == (counted,)


def test_weights_gradients_and_optimizer_of_a_7b_model() -> None:
    """7,615,616,512 parameters: 15.23 GB of bf16, 30.46 of fp32 gradients, 91.39 of Adam's states."""
    count = parameters(SEVEN, 1, 1, "lm")[0]
    assert count == 7_615_616_512
    alone = ModelState.of(count, ModelConfig(), world_size=1)
    assert (alone.weights, alone.gradients, alone.optimizer) == (2 * count, 4 * count, 12 * count)
    shared = ModelState.of(count, ModelConfig(cp=2), world_size=8)
    assert shared.optimizer == 12 * count / 8 and shared.gradients == 4 * count
    whole = ModelState.of(count, ModelConfig(optimizer=OptimizerConfig(distributed=False)), world_size=8)
    assert whole.optimizer == 12 * count
    assert ModelState.of(count, ModelConfig(dtype="fp32"), 1).total == 16 * count


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (4, 2), (2, 4)])
def test_a_stage_holds_its_part(tp: int, pp: int) -> None:
    """Norms are on every TP rank, the rest is cut; the critic has a row and a bias in place of the output layer."""
    hf = KNOWN["Qwen2.5-7B"]
    norms = (2 * hf.num_layers + 1) * hf.hidden_size
    stages = parameters(hf, tp, pp, "lm")
    assert sum(stages) == (parameters(hf, 1, 1, "lm")[0] - norms) // tp + norms
    values = parameters(hf, tp, pp, "value")
    assert values[:-1] == stages[:-1]
    assert stages[-1] - values[-1] == hf.vocab_size * hf.hidden_size // tp - hf.hidden_size - 1


def test_a_tied_model_keeps_its_embedding_on_the_last_stage_too() -> None:
    hf = KNOWN["Qwen2.5-0.5B"]
    assert sum(parameters(hf, 1, 2, "lm")) - parameters(hf, 1, 1, "lm")[0] == hf.vocab_size * hf.hidden_size
    assert sum(parameters(hf, 1, 2, "value")) - parameters(hf, 1, 1, "value")[0] == 0


def test_key_value_bytes() -> None:
    """Qwen2.5-7B: 2 x 28 x 4 x 128 x 2 = 57,344; cut by TP as far as there are heads."""
    assert [kv_bytes_per_token(SEVEN, tp) for tp in (1, 2, 4, 8)] == [57344, 28672, 14336, 14336]


def test_what_the_kv_cache_holds() -> None:
    """Half of 84.93 GB, less 15.23 of weights, 16384 x (7168 + 56832) x 2 = 2.10 of activations, 3 x 256 x 152064 x 4 = 0.47."""
    engine = EngineMemory(SEVEN, replace(setup().config.rollout, tp=1, gpu_memory_utilization=0.5), H100, 2)
    assert engine.weights == pytest.approx(15.23e9, rel=1e-3)
    assert engine.activations == pytest.approx(2.097e9 + 0.467e9, rel=1e-3)
    assert engine.kv_cache == pytest.approx(42.47e9 - 15.23e9 - 2.56e9, rel=1e-3)
    assert engine.sequences(10240) == int(engine.kv_cache // (10240 * 57344)) == 42
    assert engine.sequences(10241) == int(engine.kv_cache // (10256 * 57344))  # blocks of 16 tokens


def test_activations_by_recomputation_pipeline_and_tensor_parallelism() -> None:
    """7B, bf16, TP1: a layer keeps 4 x 7168 + 2 x (7168 + 1024 + 75776) + 112 = 196,720 bytes a token."""

    def shard(stage: int = 0, **config: object) -> Shard:
        return Shard(SEVEN, ModelConfig(**config), "lm", stage, 8)

    assert shard().layer_bytes == 196_720
    working = 2 * 7168 + 3 * 18944 * 2
    assert shard().activations(1000, 1) == 1000 * (28 * 196_720 + working)
    assert shard(recompute="full").activations(1000, 1) == 1000 * (28 * 7168 + 196_720 + working)
    assert shard(pp=2).activations(1000, 8) == 1000 * (2 * 14 * 196_720 + working)
    assert shard(pp=2).activations(1000, 1) == shard(1, pp=2).activations(1000, 8) == 1000 * (14 * 196_720 + working)
    cut, whole = shard(tp=4, sequence_parallel=True), shard(tp=4)
    assert cut.layer_bytes == pytest.approx(196_720 / 4) and whole.layer_bytes > cut.layer_bytes


def test_fp8_layers_keep_a_byte_a_matrix_element_twice() -> None:
    layer = 3584 * (2 * 28 + 2 * 4) * 128 + 3 * 3584 * 18944
    config = ModelConfig(tp=2, fp8=FP8Config(recipe="tensorwise"))
    assert Shard(SEVEN, config, "lm", 0, 2).fp8_copies == 2 * 28 * layer / 2
    assert set(memory("actor.fp8.recipe=tensorwise").tables["rank"]["actor FP8 copies"]) == {"log-probs", "actor update"}
    ends = FP8Config(recipe="tensorwise", bf16_first_layers=2, bf16_last_layers=1)
    found = [Shard(SEVEN, ModelConfig(tp=2, pp=2, fp8=ends), "lm", stage, 4).fp8_copies for stage in (0, 1)]
    assert found == [2 * 12 * layer / 2, 2 * 13 * layer / 2]


def test_fp8_parameters_take_a_byte_and_another_for_their_transpose_in_an_update() -> None:
    layer = 3584 * (2 * 28 + 2 * 4) * 128 + 3 * 3584 * 18944
    copies, alone = (
        Shard(SEVEN, ModelConfig(tp=2, fp8=FP8Config(recipe="tensorwise", parameters=parameters)), "lm", 0, 2)
        for parameters in (False, True)
    )
    assert copies.state.weights - alone.state.weights == alone.fp8_transposes == 28 * layer / 2
    assert (alone.fp8_copies, copies.fp8_transposes) == (0, 0)
    assert alone.written_weights == copies.written_weights == copies.state.weights
    assert alone.state.optimizer == copies.state.optimizer
    both = [memory("actor.fp8.recipe=tensorwise", f"actor.fp8.parameters={value}") for value in ("false", "true")]
    phases = [totals(each.tables["rank"]) for each in both]
    held = 28 * layer / 4  # at TP 4
    for phase, bytes_saved in {"rollout": held, "log-probs": 3 * held, "actor update": 2 * held}.items():
        assert phases[0][phase] - phases[1][phase] == pytest.approx(bytes_saved), phase


def test_a_fused_activation_keeps_one_tensor_less() -> None:
    plain, fused = (Shard(SEVEN, ModelConfig(fuse_swiglu=fuse), "lm", 0, 1).layer_bytes for fuse in (False, True))
    assert plain - fused == 2 * SEVEN.ffn_size


def test_logits_exist_in_chunks_on_the_last_stage() -> None:
    """1024 x 152064 x 2 bytes = 0.31 GB, forward and backward."""
    head = Shard(SEVEN, ModelConfig(), "lm", 0, 1)
    assert head.head_bytes == 1024 * 152064 * 2
    assert Shard(SEVEN, ModelConfig(pp=2), "lm", 0, 2).head_bytes == 0
    assert Shard(SEVEN, ModelConfig(), "value", 0, 1).head_bytes == 0


def test_the_largest_packed_row() -> None:
    assert row_tokens(ModelConfig(micro_batch_tokens=16384), 10240, 32) == 16384
    assert row_tokens(ModelConfig(micro_batch_tokens=4096), 10240, 32) == 10240  # a longer sequence is alone
    assert row_tokens(ModelConfig(micro_batch_tokens=16384, cp=2), 10240, 32) == 8192
    assert row_tokens(ModelConfig(micro_batch_tokens=16384), 1024, 4) == 4096  # there are no more


def test_flops() -> None:
    """2 x 6.53 B weights a token, 4 x 28 x 3584 x 1024 for attention over 2048 tokens, 2 x 152064 x 3584 for a scored one."""
    biases_and_norms = 28 * (3584 + 2 * 512 + 2 * 3584) + 3584
    assert layer_weights(SEVEN) == 7_615_616_512 - 2 * 152064 * 3584 - biases_and_norms
    per_token = 2 * layer_weights(SEVEN) + 4 * 28 * 3584 * 1024
    assert forward_flops(SEVEN, 10, 10 * 2048) == 10 * per_token
    assert forward_flops(SEVEN, 10, 10 * 2048, 3) == 10 * per_token + 3 * 2 * 152064 * 3584


def test_seconds_by_hand() -> None:
    """The paper's 7B on 4 H100: log-probs are 512 x 4352 tokens at 45 % of 4 x 989 TFLOP/s; an update is four passes at 40 %."""
    planned = memory("prompts_per_step=512", "rollout.max_prompt_tokens=2048")
    seconds = Times(planned.setup, planned.engine, Assumptions(), (3.81e9, 0.0)).seconds()
    flops = forward_flops(SEVEN, 512 * 4352, 512 * 4352**2, 512 * 4096)
    assert seconds["old log-probs"] == pytest.approx(flops / (0.45 * 4 * 989e12)) == pytest.approx(18.7, abs=0.1)
    assert seconds["actor update"] == pytest.approx(4 * flops / (0.40 * 4 * 989e12))
    assert seconds["reshard"] == pytest.approx(3.81e9 / (0.5 * 450e9))
    assert "wake and sleep" not in seconds, "what a reshard replaces is thrown away in sleep"
    for size, left in ((128, 0.75), (0, None)):  # of 512 responses; 0: all in one mini-batch
        reuses = memory(
            "prompts_per_step=512",
            "rollout.max_prompt_tokens=2048",
            f"actor.mini_batch_size={size}",
            "actor.reuse_first_forward=true",
        )
        found = Times(reuses.setup, reuses.engine, Assumptions(), (3.81e9, 0.0)).seconds().get("old log-probs")
        assert found == (left and pytest.approx(left * seconds["old log-probs"]))
    gathered = memory("rollout.weight_sync=gather")
    seconds = Times(gathered.setup, gathered.engine, Assumptions(), (0.0, 0.0)).seconds()
    assert seconds["wake and sleep"] == pytest.approx(2 * 3.8078e9 / 50e9, rel=1e-3)


def test_a_decoding_step_by_hand() -> None:
    """TP4, 235 sequences of 2304 tokens: (3.81 + 7.8) GB at 70 % of 3.35 TB/s, 3 ms, and 56 all-reduces of 15 us."""
    planned = memory("prompts_per_step=512", "rollout.max_prompt_tokens=2048")
    times = Times(planned.setup, planned.engine, Assumptions(), (0.0, 0.0))
    read = planned.engine.weights + 235 * 2304 * 14336
    assert times.running == 235
    assert times.decode_step(235) == pytest.approx(read / (0.7 * 3.35e12) + 3e-3 + 56 * 15e-6)


def test_the_fullest_rank_holds_the_fullest_stages() -> None:
    """The last stage has the output layer, the first keeps more micro-batches: whichever needs most is shown."""
    planned = memory("actor.pp=2", "actor.tp=2", "critic.tp=1", "critic.pp=2", "rollout.gpu_memory_utilization=0.2", gpus=8)
    tables = [planned._table(shards, rolls_out=True) for shards in planned._shards()]
    assert len(tables) == 2
    assert planned.peak[1] == max(max(totals(table).values()) for table in tables)


def test_sleep_frees_vllm_in_updates() -> None:
    asleep, awake = totals(memory().tables["rank"]), totals(memory("rollout.sleep=false").tables["rank"])
    engine = memory().engine
    assert awake["actor update"] - asleep["actor update"] == pytest.approx(engine.weights + engine.kv_cache)
    assert awake["rollout"] == asleep["rollout"]
    assert memory().host_bytes["vLLM's weights, while it sleeps after a validation"] == 4 * engine.weights


SEPARATE = ("rollout.placement=separate", "rollout.num_ranks=4", "rollout.gpu_memory_utilization=0.9")


def test_what_offload_brings_to_the_host_is_on_the_gpu_in_its_models_update_alone() -> None:
    stays, partly, away = (memory(f"offload={level}").tables["rank"] for level in ("none", "optimizer", "all"))
    for name, phase in (("actor", "actor update"), ("critic", "critic update")):
        assert set(stays[f"{name} optimizer"]) == set(PHASES)
        assert set(partly[f"{name} optimizer"]) == set(away[f"{name} gradients"]) == {phase}
        assert set(partly[f"{name} gradients"]) == set(PHASES)
    assert set(away["actor weights"]) == set(PHASES) and set(away["critic weights"]) == {"critic update"}
    state, critic = (ModelState.of(parameters(SEVEN, 4, 1, head)[0], ModelConfig(path="", tp=4), 4) for head in ("lm", "value"))
    assert totals(stays)["rollout"] - totals(away)["rollout"] == pytest.approx(
        state.gradients + state.optimizer + critic.total, rel=1e-6
    )
    # Gradients are not copied, and a node's four ranks share its host.
    host = memory("offload=all").host_bytes["what offload=all brings there"]
    assert host == pytest.approx(4 * (state.optimizer + critic.optimizer + critic.weights), rel=1e-6)
    assert not any("offload" in what for what in memory().host_bytes)


@pytest.mark.parametrize(("share", "level"), [(0.1, "none"), (0.4, "optimizer"), (0.75, "all"), (0.95, "all")])
def test_auto_is_the_least_offload_with_which_the_run_fits(share: float, level: str) -> None:
    found = memory("offload=auto", f"rollout.gpu_memory_utilization={share}")
    assert found.offload == level
    assert found.tables == memory(f"offload={level}", f"rollout.gpu_memory_utilization={share}").tables
    assert bool(found.problem()) == (share == 0.95), "where nothing fits, the verdict is that of the most"


def test_the_least_offload_is_named_and_none_where_it_is_on_already() -> None:
    assert str(nearest(setup("rollout.gpu_memory_utilization=0.5"), Assumptions())[0]) == "offload=optimizer"
    beyond = nearest(setup("rollout.gpu_memory_utilization=0.95", "offload=all"), Assumptions())
    assert beyond and not any("offload" in str(change) for change in beyond)


def test_ranks_that_roll_out_alone_have_the_gpu_to_themselves() -> None:
    planned = memory(*SEPARATE, gpus=8)
    training, rollout = planned.tables["training rank"], planned.tables["rollout rank"]
    assert not any(name.startswith("vLLM") for name in training) and "actor weights" not in rollout
    assert training["actor optimizer"] == memory().tables["rank"]["actor optimizer"], "4 ranks train in both"
    assert planned.problem() == "" and planned.peak[1] == totals(rollout)["rollout"]
    lines = describe_ranks(planned.setup)
    assert lines[3] == "node 0 rank 3: actor tp 3 | critic tp 3" and lines[4] == "node 0 rank 4: vLLM engine 0 tp 0"
    assert Push(planned.setup, 2).most_received[0] == pytest.approx(3.8078e9, rel=1e-3), "all of its shard"


def test_rollouts_one_step_ahead_hide_the_shorter_side() -> None:
    ahead = memory(*SEPARATE, "rollout.max_staleness=1", "algorithm.importance_sampling.truncate=2", gpus=8)
    times = Times(ahead.setup, ahead.engine, Assumptions(), (0.0, 0.0))
    seconds = times.seconds()
    training = sum(seconds.values()) - seconds["rollout"]
    assert times.step == max(seconds["rollout"], training)


def test_weights_that_are_the_trainers_own_take_nothing() -> None:
    """TP4 of 4 KV heads: every parameter is laid out alike on both sides; with TP2 the QKV of two groups is interleaved."""
    own = ("rollout.alias_weights=true", "rollout.execution=eager")
    assert "vLLM weights" not in memory(*own).tables["rank"]
    two = memory(*own, "actor.tp=2", "rollout.tp=2", "critic.tp=2", gpus=8)
    qkv = 28 * (3584 + 2 * 512) * (3584 + 1) / 2
    assert two.tables["rank"]["vLLM weights"]["rollout"] == pytest.approx(2 * qkv)


def test_fp8_rollouts_halve_the_layers() -> None:
    halved, whole = memory("rollout.quantization=fp8").engine.weights, memory().engine.weights
    vocabulary = 2 * 152064 * 3584 / 4
    assert halved == pytest.approx(2 * vocabulary + (whole / 2 - vocabulary))


def test_a_reference_policy_costs_its_weights_twice() -> None:
    planned = memory("algorithm.kl.coefficient=0.001")
    assert planned.setup.needs_reference
    assert planned.tables["rank"]["policy's weights, swapped out"] == {
        "log-probs": planned.tables["rank"]["actor weights"]["log-probs"]
    }
    assert planned.host_bytes["reference policy"] == pytest.approx(15.23e9, rel=1e-3)


def test_every_row_is_in_known_phases_and_positive() -> None:
    for row in memory("algorithm.kl.coefficient=0.001", "rollout.weight_sync=gather").tables["rank"].values():
        assert set(row) <= set(PHASES) and min(row.values()) >= 0


def test_bytes_of_a_reshard_are_the_planners() -> None:
    """Equal TP: nothing moves. TP4 PP2 to TP4: 1.90 GB at most instead of 13.33 (docs of the reshard)."""
    assert Push(setup(), 2).most_received == (0.0, 0.0)
    push = Push(setup("actor.pp=2", gpus=8), 2)
    assert push.most_received[0] / 1e9 == pytest.approx(1.90, abs=0.01) and push.gathered / 1e9 == pytest.approx(13.33, abs=0.01)
    assert "gathering" in Push(setup("rollout.weight_sync=gather"), 2).describe()


def test_ranks_are_megatrons() -> None:
    model = ModelConfig(tp=2, cp=2, pp=2)
    assert coordinates(model, 0, 16) == {"tp": 0, "cp": 0, "dp": 0, "pp": 0}
    assert coordinates(model, 7, 16) == {"tp": 1, "cp": 1, "dp": 1, "pp": 0}
    assert coordinates(model, 8, 16) == {"tp": 0, "cp": 0, "dp": 0, "pp": 1}
    lines = describe_ranks(setup("actor.pp=2", gpus=8))
    assert lines[5] == "node 0 rank 5: actor tp 1 pp 1 | critic tp 1 dp 1 | vLLM engine 1 tp 1"
    assert len(describe_ranks(setup(nodes=8, gpus=8))) == 8


def test_changes_that_are_named_do_fit() -> None:
    too_large = setup("rollout.gpu_memory_utilization=0.8")
    assert Memory(too_large, Assumptions()).problem().startswith("the rollout phase needs 137")
    changes = nearest(too_large, Assumptions())
    assert [str(change) for change in changes] == ["offload=all", "rollout.gpu_memory_utilization=0.15"]
    assert all(fits(too_large, change, Assumptions()) for change in changes)
    assert not Memory(changes[0].applied(too_large), Assumptions()).problem()


def test_a_kv_cache_below_one_sequence_does_not_fit() -> None:
    assert "not one sequence of 9216 tokens" in memory("rollout.gpu_memory_utilization=0.05").problem()


def test_smaller_models_have_the_same_tokenizer() -> None:
    assert smaller_models("a/DeepSeek-R1-Distill-Qwen-7B") == ["a/DeepSeek-R1-Distill-Qwen-1.5B"]
    assert smaller_models("Qwen3-4B") == ["Qwen3-1.7B", "Qwen3-0.6B"]
    assert smaller_models("my/own") == []


def test_models_by_folder_by_name_and_not_at_all(tmp_path: Path) -> None:
    own = {"model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 320}
    folder = tmp_path / "Qwen3-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**own, "intermediate_size": 128}), encoding="utf-8")
    assert model_shape(str(folder), "actor.path")[0].num_layers == 2  # the folder wins over the name
    assert model_shape("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "actor.path")[0] is SEVEN
    assert model_shape("Qwen2.5-7B-Instruct", "actor.path")[1] == "the published Qwen2.5-7B"
    with pytest.raises(UserError, match=r"critic.path=models/other has no config.json here and its name is none that"):
        model_shape("models/other", "critic.path")
    with pytest.raises(UserError, match="mixture of experts"):
        model_shape("Qwen3-30B-A3B", "actor.path")


# --- as a user ------------------------------------------------------------------------------------------------------


def config_file(folder: Path) -> str:
    lines = ["actor: {path: models/DeepSeek-R1-Distill-Qwen-7B, tp: 4, recompute: full}", "critic: {tp: 4, recompute: full}"]
    lines += ["rollout: {tp: 4, gpu_memory_utilization: 0.15}", "data: {train: [dapo.jsonl]}"]
    path = folder / "run.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_plan_as_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(tmp_path)
    assert main(["plan", path, "--gpus-per-node", "4"]) == 0
    shown = capsys.readouterr().out
    assert "7.62 B parameters = 15.2 GB in bf16" in shown and shown.endswith("\nfits\n")
    for title in ("machines", "batch", "ranks", "memory of the fullest rank, GB", "bytes per reshard", "assumed"):
        assert f"\n{title}:\n" in "\n" + shown
    assert "warning: the KV cache of" in shown and "of 256 sequences at 9216 tokens" in shown

    assert main(["plan", path, "rollout.gpu_memory_utilization=0.8", "--gpus-per-node", "4"]) == 2
    verdict = capsys.readouterr().out.splitlines()[-3:]
    assert verdict[0].startswith("does not fit: the rollout phase needs") and verdict[1] == "  offload=all"
    assert verdict[2] == "  rollout.gpu_memory_utilization=0.15"

    assert main(["plan", path, "--gpu", "b200", "--gpus-per-node", "4"]) == 0
    assert "warning: critic.tp=4 wastes two all-reduces" in capsys.readouterr().out


def test_a_laptop_needs_no_megatron_and_no_vllm(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules.update({'megatron': None, 'vllm': None, 'transformers': None})\n"
        f"from megatron_sppo.cli import main\nsys.exit(main(['plan', {config_file(tmp_path)!r}, '--gpus-per-node', '4']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
