"""The loader: strict, typed, and with errors that a person can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_sppo.config.load import as_dict, describe, dump_yaml, load_config, type_name
from megatron_sppo.config.schema import Config, SFTConfig
from megatron_sppo.errors import UserError


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def refused(tmp_path: Path, yaml: str = "", overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Config, [write(tmp_path, "bad.yaml", yaml)] if yaml else [], overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_files_gives_the_defaults() -> None:
    assert load_config(Config, [], []) == Config()
    assert load_config(SFTConfig, []) == SFTConfig()


def test_files_merge_in_order_and_overrides_win(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "steps: 5\nactor: {tp: 2, optimizer: {lr: 1e-5}}\ndata: {train: [a.jsonl]}\n")
    second = write(tmp_path, "b.yaml", "actor: {tp: 4}\n")
    config = load_config(Config, [first, second], ["steps=7"])
    assert (config.steps, config.actor.tp, config.actor.optimizer.lr, config.data.train) == (7, 4, 1e-5, ("a.jsonl",))
    assert config.critic.optimizer.lr == 5e-6, "a default of a section's own factory survives"


def test_defaults_lie_below_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", "root.yaml", "steps: 1\nseed: 9\n")
    write(tmp_path / "base", "mid.yaml", "defaults: root.yaml\nsteps: 2\n")
    top = write(tmp_path, "top.yaml", "defaults: [base/mid.yaml]\nprompts_per_step: 3\n")
    config = load_config(Config, [top])
    assert (config.steps, config.seed, config.prompts_per_step) == (2, 9, 3)


def test_circular_and_missing_defaults_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "defaults: b.yaml\n")
    circle = write(tmp_path, "b.yaml", "defaults: a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(Config, [circle])
    with pytest.raises(UserError, match=r"nowhere\.yaml.*named by `defaults` of .*c\.yaml.*does not exist"):
        load_config(Config, [write(tmp_path, "c.yaml", "defaults: nowhere.yaml\n")])


@pytest.mark.parametrize(
    ("yaml", "wanted"),
    [
        ("actor: {optimizer: {lrr: 1}}", "unknown key actor.optimizer.lrr"),
        ("stepz: 4", "did you mean steps?"),
        ("lr: 1e-6", "did you mean actor.optimizer.lr?"),
        ("critic: {pryor: 0.2}", "did you mean critic.prior?"),
        ("actor: {optimiser: {lr: 1e-6}}", "unknown key actor.optimiser "),
        ("actor: 3", "actor=3"),
        ("steps: many", "steps=many"),
        ("steps: 1.5", "not of type int"),
        ("steps: true", "steps=true"),
        ("steps: null", "steps=null"),
        ("run_dir: 7", "not of type text"),
        ("rollout: {sleep: 1}", "true or false"),
        ("rollout: {stop_token_ids: [1, x]}", "rollout.stop_token_ids=x"),
        ("data: {train: null}", "data.train=null"),
        ("actor: {dtype: fp64}", "pick one of auto, fp32, bf16"),
        ("steps: [1", "not valid YAML"),
        ("- 1", "not `key: value` lines"),
        ("steps: 1\nsteps: 2", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, yaml: str, wanted: str) -> None:
    message = refused(tmp_path, yaml)
    assert wanted in message and "bad.yaml" in message


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("actor.tpp=2", "did you mean actor.tp?"),
        ("actor.tp=two", "actor.tp=two on the command line is not of type int"),
        ("actor.tp=", "actor.tp=null"),
        ("steps", "has no value"),
        ("actor=2", "is a section"),
        ("rollout.stop_token_ids=[1", "cannot be read as YAML"),
        ("logging.wandb=maybe", "pick one of off, offline, online"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(tmp_path: Path, override: str, wanted: str) -> None:
    assert wanted in refused(tmp_path, overrides=(override,))


def test_override_values_take_the_type_of_their_knob() -> None:
    overrides = [
        "critic.optimizer.lr=1",
        "data.train=[a.jsonl,b.jsonl]",
        "data.validation=c.jsonl",
        "rollout.stop_token_ids=[7,8]",
    ]
    overrides += ["logging.wandb=off", "rollout.sleep=false", "data.prompt_suffix=Answer: x = \\boxed{y}", "actor.path="]
    config = load_config(Config, [], overrides)
    assert type(config.critic.optimizer.lr) is float and config.critic.optimizer.lr == 1.0
    assert config.data.train == ("a.jsonl", "b.jsonl") and config.data.validation == ("c.jsonl",)
    assert config.rollout.stop_token_ids == (7, 8) and config.rollout.sleep is False and config.logging.wandb == "off"
    assert config.data.prompt_suffix == "Answer: x = \\boxed{y}" and config.actor.path == ""


def test_a_bare_off_is_the_word_off(tmp_path: Path) -> None:
    assert load_config(Config, [write(tmp_path, "a.yaml", "logging: {wandb: off}\n")]).logging.wandb == "off"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml does not exist"):
        load_config(Config, [tmp_path / "gone.yaml"])


@pytest.mark.parametrize("kind", [Config, SFTConfig])
def test_dump_round_trips(tmp_path: Path, kind: type) -> None:
    overrides = ["logging.wandb=off", "run_dir=1e-6", "data.train=[a.jsonl]"]
    if kind is Config:
        overrides += ["data.prompt_suffix=a: '\\boxed{}' # ${x}", "actor.optimizer.lr=3e-7", "rollout.stop_token_ids=5"]
    config = load_config(kind, [], overrides)
    assert load_config(kind, [write(tmp_path, "dump.yaml", dump_yaml(config))]) == config


def test_every_knob_is_described_once_and_with_a_meaning() -> None:
    knobs = describe(Config)
    keys = [knob.key for knob in knobs]
    assert len(keys) == len(set(keys))
    assert {"steps", "actor.optimizer.lr", "critic.prior", "algorithm.kl.where"} <= set(keys)
    assert all(knob.meaning for knob in knobs)
    by_key = {knob.key: knob for knob in knobs}
    assert by_key["critic.optimizer.lr"].default == 5e-6
    assert type_name(by_key["actor.dtype"].type) == "auto | fp32 | bf16"
    assert type_name(by_key["data.train"].type) == "list of text"


def test_as_dict_is_plain() -> None:
    plain = as_dict(load_config(Config, [], ["data.train=a.jsonl"]))
    assert plain["data"]["train"] == ["a.jsonl"] and plain["actor"]["optimizer"]["lr"] == 1e-6
