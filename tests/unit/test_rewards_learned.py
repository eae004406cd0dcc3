"""The learned reward on real (random) HF classifiers: batching, templates, scales, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

from megatron_sppo.config.rewards import RewardConfig, RewardModelConfig
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.learned import RewardModel, batches
from megatron_sppo.rewards.load import load_reward
from megatron_sppo.rewards.protocol import Sample

from .tiny_tokenizers import R1_TEMPLATE, write_bpe


def save_classifier(folder: Path, labels: int = 1, template: str | None = R1_TEMPLATE) -> Path:
    write_bpe(folder, template=template)
    torch.manual_seed(3)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = Qwen2Config(vocab_size=512, num_labels=labels, initializer_range=0.3, **shape)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def sample(response: str, question: str = "What is 12 + 34 ?") -> Sample:
    return Sample(f"rendered {question}", response, "46", "test", truncated=False, messages=(("user", question),))


SAMPLES = [
    sample("so 46</think>\\boxed{46}"),
    sample("The answer is 5. " * 20),
    sample("x"),
    sample("</think>", "Let $x = 5$"),
]


def by_hand(folder: Path, texts: list[str]) -> torch.Tensor:
    """[S, labels] each text alone, through plain transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        rows = [tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"] for text in texts]
        return torch.cat([model(input_ids=row).logits for row in rows])


def test_scores_are_those_of_transformers_one_by_one_whatever_the_batches(folder: Path) -> None:
    answers = ["\\boxed{46}", ("The answer is 5. " * 20).strip(), "x", ""]
    questions = [text for found in SAMPLES for _, text in found.messages]
    texts = [f"<|begin|><|user|>{q}<|assistant|>{a}" for q, a in zip(questions, answers, strict=True)]
    expected = by_hand(folder, texts)[:, 0].sigmoid()
    assert expected.std() > 0.05  # a classifier that tells them apart
    for budget in (1, 200, 16384):
        verdicts = RewardModel(RewardModelConfig(path=str(folder), batch_tokens=budget))(SAMPLES)
        torch.testing.assert_close(torch.tensor([v.reward for v in verdicts]), expected, atol=1e-5, rtol=0)
        assert {verdict.reason for verdict in verdicts} == {"scored"}


def test_without_a_template_the_text_is_prompt_and_response(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, template=None)
    (verdict,) = RewardModel(RewardModelConfig(path=str(folder), answer_only=False))(SAMPLES[:1])
    expected = by_hand(folder, [SAMPLES[0].prompt + SAMPLES[0].response])[0, 0].sigmoid()
    assert verdict.reward == pytest.approx(float(expected), abs=1e-5)


def test_long_texts_lose_their_left_end_and_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = RewardModel(RewardModelConfig(path=str(folder), max_tokens=40))
    verdicts = model(SAMPLES)
    assert [verdict.reason for verdict in verdicts].count("cut on the left") == 1
    assert "max_tokens=40: 1 of 4 texts lost tokens" in caplog.text
    kept = model.tokens_of(SAMPLES[1])[-40:]
    assert verdicts[1].reward == pytest.approx(float(model.scores([kept])[0, 0].sigmoid()), abs=1e-6)


def test_scales(tmp_path: Path, folder: Path) -> None:
    logits = torch.tensor([[-5.0], [0.0], [2.5], [9.0]])
    linear = RewardModel(RewardModelConfig(path=str(folder), scale="linear"))
    assert linear.scaled(logits).tolist() == [0.0, 0.5, 0.75, 1.0]
    two = save_classifier(tmp_path, labels=2)
    label = RewardModel(RewardModelConfig(path=str(two), scale="label", label=0))
    assert label.scaled(torch.tensor([[0.0, 0.0], [3.0, 0.0]])).tolist() == pytest.approx([0.5, 0.952574], abs=1e-5)


def test_in_a_sum(folder: Path) -> None:
    config = RewardConfig(name="0.5*math + 0.5*model", model=RewardModelConfig(path=str(folder)))
    verdicts = load_reward(config, 100)(SAMPLES)
    assert verdicts[0].parts["math"] == 1.0 and verdicts[0].reward == 0.5 + 0.5 * verdicts[0].parts["model"]


def test_nothing_to_grade(folder: Path) -> None:
    assert RewardModel(RewardModelConfig(path=str(folder)))([]) == []


def test_batches_hold_their_budget_and_every_row_once() -> None:
    lengths = [5, 40, 7, 7, 39, 1]
    found = list(batches(lengths, 80))
    assert sorted(index for batch in found for index in batch) == list(range(6))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 80 for batch in found)
    assert list(batches([100, 100], 80)) == [[0], [1]]


def test_mistakes(tmp_path: Path, folder: Path) -> None:
    two = save_classifier(tmp_path / "two", labels=2)
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    table: list[tuple[dict[str, object], str]] = [
        ({"path": ""}, r"reward.model.path='' has no config.json"),
        ({"path": str(policy)}, "holds Qwen2ForCausalLM"),
        ({"path": str(two)}, "scale=sigmoid reads one score but .* has 2 classes; use scale=label"),
        ({"path": str(two), "scale": "label", "label": 2}, r"reward.model.label=2 is none of the 2 classes"),
        ({"path": str(folder), "scale": "linear", "low": 1.0, "high": 1.0}, "low=1.0 is not below"),
    ]
    for knobs, complaint in table:
        with pytest.raises(UserError, match=complaint):
            RewardModel(RewardModelConfig(**knobs))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no safetensors weights"):
        RewardModel(RewardModelConfig(path=str(folder)))(SAMPLES)
