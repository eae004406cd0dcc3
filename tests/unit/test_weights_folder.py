"""Reading and writing HF weight folders, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.weights.hf_folder import _copy_companions, _refusal, _ShardWriter, _write
from megatron_sppo.weights.load_hf import INDEX_NAME, SafetensorsFolder
from megatron_sppo.weights.mapping import rule_for

TENSORS = {f"layer.{i}": torch.arange(12.0).reshape(4, 3) + 100 * i for i in range(5)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An HF folder with everything in it that a user may have."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "dtype": "float32"}))
    for name in ("tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "generation_config.json"):
        (folder / name).write_text(name)
    for name in ("pytorch_model.bin", "optimizer.pt", "model.safetensors.index.json", "old.safetensors", "modeling.py"):
        (folder / name).write_text("not to be copied")
    return folder


def config() -> HFModelConfig:
    return HFModelConfig("qwen3", 2, 16, 4, 2, 8, 32, 50, False, 1e4, 1e-6, 128, (0,))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    reader = SafetensorsFolder(folder)
    return {name: reader.read(name, 0, 0, reader.shape(name)[0]) for name in reader.names()}


def write_all(folder: Path, max_bytes: int) -> None:
    folder.mkdir()
    writer = _ShardWriter(folder, max_bytes)
    for name, tensor in TENSORS.items():
        writer.add(name, tensor)
    writer.close()


@pytest.mark.parametrize(("max_bytes", "num_files"), [(1 << 20, 1), (100, 3), (48, 5), (1, 5)])
def test_shards_written_are_read_back(tmp_path: Path, max_bytes: int, num_files: int) -> None:
    write_all(tmp_path / "out", max_bytes)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == num_files
    assert (tmp_path / "out" / INDEX_NAME).exists() == (num_files > 1)
    found = read_all(tmp_path / "out")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_read_returns_the_slice_asked_for(tmp_path: Path) -> None:
    write_all(tmp_path / "out", 100)
    reader = SafetensorsFolder(tmp_path / "out")
    assert torch.equal(reader.read("layer.2", 0, 1, 3), TENSORS["layer.2"][1:3])
    assert torch.equal(reader.read("layer.2", 1, 1, 2), TENSORS["layer.2"][:, 1:2])
    assert reader.read("layer.2", 0, 4, 4).shape == (0, 3)


def test_missing_tensor_is_named_with_its_folder(tmp_path: Path) -> None:
    write_all(tmp_path / "out", 1 << 20)
    with pytest.raises(UserError, match=r"tensor lm_head\.weight is missing in .*out"):
        SafetensorsFolder(tmp_path / "out").shape("lm_head.weight")


def test_missing_shard_file_is_named(tmp_path: Path) -> None:
    write_all(tmp_path / "out", 100)
    (tmp_path / "out" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="lacks the file model-00002-of-00003.safetensors"):
        SafetensorsFolder(tmp_path / "out").shape("layer.2")


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UserError, match="never unpickled here; convert it"):
        SafetensorsFolder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        SafetensorsFolder(tmp_path)


def test_companions_are_copied_and_weights_are_not(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    _copy_companions(source, target, torch.float32)
    copied = {file.name for file in target.iterdir()}
    assert copied == {
        "config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "generation_config.json"
    }  # fmt: skip
    assert (target / "config.json").read_text() == (source / "config.json").read_text()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_config_says_the_dtype_that_was_written(source: Path, tmp_path: Path, key: str) -> None:
    (source / "config.json").write_text(json.dumps({"model_type": "qwen2", key: "float32"}))
    target = tmp_path / "target"
    target.mkdir()
    _copy_companions(source, target, torch.bfloat16)
    assert json.loads((target / "config.json").read_text()) == {"model_type": "qwen2", key: "bfloat16"}


def test_an_earlier_export_is_replaced_whole(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _write(iter(TENSORS.items()), source, output, 48)
    _write(iter([("layer.0", TENSORS["layer.1"])]), source, output, 48)
    assert {file.suffix for file in output.glob("*.safetensors*")} == {".safetensors"}
    assert torch.equal(read_all(output)["layer.0"], TENSORS["layer.1"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_a_failed_export_leaves_the_earlier_one_and_no_litter(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _write(iter(TENSORS.items()), source, output, 48)
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError):
        _write(iter([("layer.0", TENSORS["layer.1"])]), source, output, 48)
    assert torch.equal(read_all(output)["layer.0"], TENSORS["layer.0"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_refusals(source: Path, tmp_path: Path) -> None:
    assert _refusal(source, tmp_path / "new") is None
    assert "overwrite its own source" in str(_refusal(source, source))
    assert "no config.json to copy" in str(_refusal(tmp_path, tmp_path / "new"))
    other = tmp_path / "thesis"
    other.mkdir()
    assert _refusal(source, other) is None
    (other / "thesis.tex").write_text("years of work")
    assert "is not an HF folder" in str(_refusal(source, other))
    assert "is a file" in str(_refusal(source, other / "thesis.tex"))


def test_transformer_engine_names_have_the_rules_of_the_local_ones() -> None:
    layer = "decoder.layers.1."
    for fused, local in [
        ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
        ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
    ]:
        assert rule_for(layer + fused, config()) == rule_for(layer + local, config())


def test_an_unknown_parameter_has_no_rule() -> None:
    with pytest.raises(KeyError, match="router"):
        rule_for("decoder.layers.0.mlp.router.weight", config())


def test_quantised_or_misfitting_weights_are_refused(tmp_path: Path) -> None:
    from megatron_sppo.weights.load_hf import _check

    rule = rule_for("decoder.final_layernorm.weight", config())
    save_file({"model.norm.weight": torch.zeros(16, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight .* is quantised \(F8_E4M3\)"):
        _check(SafetensorsFolder(tmp_path), rule)
    save_file({"model.norm.weight": torch.zeros(12)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="has 12 entries along dim 0 where its config.json says 16"):
        _check(SafetensorsFolder(tmp_path), rule)
