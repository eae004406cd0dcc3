from __future__ import annotations

from pathlib import Path

import pytest

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.config.rewards import RewardConfig
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.load import load_accuracy, load_reward
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


def rewards(samples: list[Sample], **knobs: object) -> list[float]:
    return [verdict.reward for verdict in load_reward(RewardConfig(**knobs), max_response_tokens=100)(samples)]


def test_registered_names() -> None:
    assert rewards(samples(), name="boxed_exact") == [1.0, 0.0]
    assert rewards(samples(), name="boxed_numeric") == [1.0, 1.0]
    assert rewards(samples(), name="math") == [1.0, 1.0]
    assert rewards(samples(), name="math_reasoning360") == [1.0, 1.0]
    assert RewardConfig().name == "math"


def test_the_overlong_penalty_hits_truncated_responses_alone() -> None:
    config = RewardConfig(name="boxed_numeric", overlong_penalty=0.5)
    verdicts = load_reward(config, max_response_tokens=100)(samples())
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.5]
    assert [verdict.parts["length_penalty"] for verdict in verdicts] == [0.0, 0.5]
    assert [verdict.reward for verdict in load_accuracy(config)(samples())] == [1.0, 1.0]


@pytest.mark.parametrize(("num_tokens", "penalty"), [(0, 0), (80, 0), (85, 0.5), (90, 1.0), (95, 1.5), (100, 2.0)])
def test_soft_overlong_punishment_is_eq_13_of_dapo(num_tokens: int, penalty: float) -> None:
    config = RewardConfig(name="boxed_numeric", overlong_penalty=2.0, overlong_buffer=20)
    sample = Sample("?", r"\boxed{1}", "1", "test", truncated=False, num_tokens=num_tokens)
    (verdict,) = load_reward(config, max_response_tokens=100)([sample])
    assert verdict.reward == pytest.approx(1.0 - penalty)


def test_a_weighted_sum_and_its_parts() -> None:
    config = RewardConfig(name="0.9*boxed_numeric + 0.1*boxed_exact")
    verdicts = load_reward(config, max_response_tokens=100)(samples())
    assert [verdict.reward for verdict in verdicts] == pytest.approx([1.0, 0.9])
    assert verdicts[1].parts == {"boxed_numeric": 1.0, "boxed_exact": 0.0}
    assert [verdict.reward for verdict in load_accuracy(config)(samples())] == [1.0, 1.0]
    (verdict,) = load_reward(RewardConfig(name="format - .25 * math"), max_response_tokens=100)(samples()[:1])
    assert (verdict.reward, verdict.reason) == (-0.25, "no </think>")


def test_a_reward_for_each_source(module: str) -> None:
    config = RewardConfig(name="boxed_exact", by_source=(f"long*={module}:length", "te*=0.5*boxed_numeric"))
    mixed = [*samples(), Sample("?", "four", "1", "longer", truncated=False), Sample("?", "four", "1", "else", truncated=False)]
    assert [verdict.reward for verdict in load_reward(config, max_response_tokens=100)(mixed)] == [0.5, 0.5, 4.0, 0.0]
    assert [verdict.reward for verdict in load_accuracy(config)(mixed)] == [1.0, 1.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"name": "math + math"}, "names math twice"),
        ({"name": "math * 0.5"}, r"cannot be read from '\* 0.5' on"),
        ({"name": "2*"}, "cannot be read"),
        ({"name": ""}, "cannot be read"),
        ({"name": "math format"}, "cannot be read from 'format' on"),
        ({"by_source": ("taco",)}, r"reward.by_source='taco' is not source=reward"),
        ({"by_source": ("taco=kode",)}, r"reward.by_source='kode' is neither"),
    ],
)
def test_an_expression_that_cannot_be_read(knobs: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_reward(RewardConfig(**knobs), max_response_tokens=100)


@pytest.mark.parametrize(
    ("response", "truncated", "fault"),
    [
        (r"2+2=4</think>So \boxed{4}", False, ""),
        (r"<think>2+2=4</think>So \boxed{4}", False, ""),
        (r"2+2=4</think>So \boxed{4}", True, "truncated"),
        (r"So \boxed{4}", False, "no </think>"),
        (r"2+2</think>4</think>\boxed{4}", False, "thinks again"),
        (r"2+2</think><think>\boxed{4}", False, "thinks again"),
        (r"2<think>+2</think>\boxed{4}", False, "misplaced <think>"),
        (r"<think> </think>\boxed{4}", False, "no reasoning"),
        (r"\boxed{4}</think>4", False, "no box"),
        (r"2+2</think>\boxed{4", False, "no box"),
        (r"2+2</think>\boxed{3} or \boxed{4}", False, "several boxes"),
    ],
)
def test_the_form_of_a_response(response: str, truncated: bool, fault: str) -> None:
    (verdict,) = load_reward(RewardConfig(name="format"), 100)([Sample("?", response, "4", "test", truncated=truncated)])
    assert (verdict.reward, verdict.reason) == (float(not fault), fault or "formatted")


def test_code_runs_programs_under_the_limits_of_its_section() -> None:
    gold = '{"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}'
    responses = ["```python\ndef add(a, b):\n    return a + b\n```", "```python\ndef add(a, b):\n    return a - b\n```"]
    reward = load_reward(RewardConfig(name="math", by_source=("taco*=code",), code=CodeLimits(workers=1, test_seconds=10.0)), 100)
    verdicts = reward([Sample("?", response, gold, "taco_1", truncated=False) for response in responses])
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]


def test_functions_and_classes_by_import_path(module: str) -> None:
    assert rewards(samples(), name=f"{module}:length") == [9.0, 11.0]
    assert rewards(samples(), name=f"{module}:Constant") == [0.25, 0.25]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("boxed_exakt", "nor boxed_exact nor boxed_numeric nor code nor model nor format nor an import path"),
        ("no_such_module_here:f", "cannot be imported .*no_such_module_here.*PYTHONPATH"),
        ("my_rewards_for_tests:absent", "has no `absent`"),
        ("my_rewards_for_tests:number", r"cannot be called \(type int\)"),
        ("my_rewards_for_tests:NotCallable", r"cannot be called \(type NotCallable\)"),
        ("my_rewards_for_tests:NeedsArgument", "class that needs arguments .*value"),
    ],
)
def test_a_bad_name(module: str, name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"reward\.name='{name}'.*{complaint}"):
        load_reward(RewardConfig(name=name), 100)


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
    reward = load_reward(RewardConfig(name=f"{module}:{attribute}"), 100)
    with pytest.raises(UserError, match=rf"reward\.name='{module}:{attribute}' returned {complaint}"):
        reward(samples())
