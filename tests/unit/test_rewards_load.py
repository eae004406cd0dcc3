from __future__ import annotations

from pathlib import Path

import pytest

from megatron_sppo.config.schema import RewardConfig
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.load import load_reward
from megatron_sppo.rewards.protocol import Sample

MODULE = """
from collections.abc import Iterable

def length(samples): return [len(sample.response) for sample in samples]
def short(samples): return [1.0]
def nan(samples): return [float("nan") for _ in samples]
def words(samples): return ["good" for _ in samples]
def nothing(samples): return None
class Constant:
    def __init__(self, value=0.25): self.value = value
    def __call__(self, samples): return [self.value] * len(samples)
class NeedsArgument(Constant):
    def __init__(self, value): self.value = value
class NotCallable: pass
number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_rewards_for_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_rewards_for_tests"


def samples() -> list[Sample]:
    return [Sample("?", r"\boxed{1}", "1", "test", truncated=False), Sample("?", r"\boxed{1.0}", "1", "test", truncated=True)]


def test_registered_names() -> None:
    assert load_reward(RewardConfig(name="boxed_exact"))(samples()) == [1.0, 0.0]
    assert load_reward(RewardConfig(name="boxed_numeric"))(samples()) == [1.0, 1.0]
    assert load_reward(RewardConfig(name="math"))(samples()) == [1.0, 1.0]
    assert load_reward(RewardConfig(name="math_reasoning360"))(samples()) == [1.0, 1.0]


def test_the_overlong_penalty_hits_truncated_responses_alone() -> None:
    reward = load_reward(RewardConfig(name="boxed_numeric", overlong_penalty=0.5))
    assert reward(samples()) == [1.0, 0.5]
    assert reward.grade(samples()) == [1.0, 1.0]


def test_functions_and_classes_by_import_path(module: str) -> None:
    assert load_reward(RewardConfig(name=f"{module}:length"))(samples()) == [9.0, 11.0]
    assert load_reward(RewardConfig(name=f"{module}:Constant"))(samples()) == [0.25, 0.25]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("boxed_exakt", "nor boxed_exact nor boxed_numeric nor an import path"),
        ("no_such_module_here:f", "cannot be imported .*no_such_module_here.*PYTHONPATH"),
        ("my_rewards_for_tests:absent", "has no `absent`"),
        ("my_rewards_for_tests:number", "is a int and cannot be called"),
        ("my_rewards_for_tests:NotCallable", "is a NotCallable and cannot be called"),
        ("my_rewards_for_tests:NeedsArgument", "class that needs arguments .*value"),
    ],
)
def test_a_bad_name(module: str, name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"reward\.name='{name}'.*{complaint}"):
        load_reward(RewardConfig(name=name))


@pytest.mark.parametrize(
    ("attribute", "complaint"),
    [
        ("short", "1 values for 2 samples"),
        ("nan", r"nan for sample 0 \(gold '1'\)"),
        ("words", r"\['good', 'good'\]"),
        ("nothing", "None"),
    ],
)
def test_a_bad_result_names_the_reward(module: str, attribute: str, complaint: str) -> None:
    reward = load_reward(RewardConfig(name=f"{module}:{attribute}"))
    with pytest.raises(UserError, match=rf"reward\.name='{module}:{attribute}' returned {complaint}"):
        reward(samples())
