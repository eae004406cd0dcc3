"""Megatron model -> an HF folder that transformers and vLLM load, streamed: rank 0 holds at most one shard on the host."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.parallel.groups import ModelGroups, is_main
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import INDEX_NAME, SINGLE_NAME

# config, generation config, chat template, and tokenizers of every kind; never weights or code
_COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken"}


class _ShardWriter:
    """Collects tensors and writes a file when the next one would make it exceed ``max_bytes`` (a larger tensor gets its own)."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.dtype: torch.dtype | None = None
        self._pending: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._pending_bytes = self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self._pending and self._pending_bytes + tensor.nbytes > self.max_bytes:
            self._flush()
        self.dtype = self.dtype or tensor.dtype
        self._pending[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)  # host, contiguous, ours
        self._pending_bytes += tensor.nbytes

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number}.safetensors"

    def _flush(self) -> None:
        save_file(self._pending, self._part(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._total_bytes += self._pending_bytes
        self._pending, self._pending_bytes = {}, 0

    def close(self) -> None:
        """Write what is left; only now is the number of shards, which is part of HF's file names, known."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            self._part(0).rename(self.folder / SINGLE_NAME)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file_name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self.folder / file_name)
            weight_map |= dict.fromkeys(names, file_name)
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        (self.folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _copy_companions(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Everything of the source folder but weights; config.json says the dtype written here."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _COPIED_SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    config = json.loads((target / "config.json").read_text())
    written = str(dtype).removeprefix("torch.")
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    if any(config.get(key) != written for key in keys):
        (target / "config.json").write_text(json.dumps(config | dict.fromkeys(keys, written), indent=2) + "\n")


def _refusal(source: Path, output: Path) -> str | None:
    """Why the folder cannot be written, in the user's words; None if it can."""
    if not (source / "config.json").is_file():
        return f"{source} has no config.json to copy; name the HF folder that the model was loaded from."
    if output.exists() and output.resolve() == source.resolve():
        return f"the HF export would overwrite its own source {source}; choose another output folder."
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").is_file():
        return f"{output} exists and is not an HF folder; choose another output folder, or remove it."
    if output.exists() and not output.is_dir():
        return f"{output} is a file; choose another output folder."
    return None


def _put_in_place(finished: Path, output: Path) -> None:
    """Rename ``finished`` to ``output``; an older export there is moved aside first and removed last."""
    old = finished.with_name(finished.name + ".old")
    if output.exists():
        output.rename(old)
    finished.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _write(tensors: Iterator[tuple[str, Tensor]], source: Path, output: Path, max_shard_bytes: int) -> None:
    """Rank 0's part: everything goes to a sibling folder that takes its name when it is complete."""
    unfinished = output.with_name(f".{output.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        writer = _ShardWriter(unfinished, max_shard_bytes)
        for name, tensor in tensors:
            writer.add(name, tensor)
        writer.close()
        assert writer.dtype is not None, "a model has tensors"
        _copy_companions(source, unfinished, writer.dtype)
        _put_in_place(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def save_hf_folder(
    model: nn.Module,
    hf: HFModelConfig,
    groups: ModelGroups,
    source_folder: str | Path,
    output_folder: str | Path,
    max_shard_bytes: int = 4 << 30,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model as an HF folder, with config and tokenizer from ``source_folder``. Collective over all ranks.

    When it returns on any rank the folder is complete; before that it does not exist, or is the earlier export. ``dtype``
    defaults to the parameters' own. The scalar head of a value model is not written. UserError, on all ranks, where the folder
    may not be written.
    """
    source, output = Path(source_folder), Path(output_folder)
    refusal = broadcast_object(_refusal(source, output) if is_main() else None)
    if refusal:
        raise UserError(refusal)
    tensors = iter_hf_tensors(model, hf, groups, dtype)
    if is_main():
        _write(tensors, source, output, max_shard_bytes)
    else:
        for _ in tensors:
            pass
    dist.barrier(group=platform.host_group())
