"""HF safetensors folder -> this rank's Megatron parameters, slice by slice: no rank ever holds a full model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from megatron_sppo.errors import UserError
from megatron_sppo.models import fp8
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel.groups import ModelGroups
from megatron_sppo.weights.mapping import mapped_parameters, rule_for
from megatron_sppo.weights.rules import Rule

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}


class SafetensorsFolder:
    """Reads slices of the tensors of an HF folder (one file, or shards with an index). Files are mapped, never loaded whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file_of = self._find_tensors()
        self._open: dict[str, safe_open] = {}

    def _find_tensors(self) -> dict[str, str]:
        """HF tensor name -> file name."""
        index = self.path / INDEX_NAME
        if index.is_file():
            return dict(json.loads(index.read_text())["weight_map"])
        if (self.path / SINGLE_NAME).is_file():
            with safe_open(self.path / SINGLE_NAME, framework="pt") as file:
                return dict.fromkeys(file.keys(), SINGLE_NAME)
        if any(self.path.glob("*.bin")):
            raise UserError(
                f"{self.path} has PyTorch .bin weights only, which are never unpickled here; convert it with transformers: "
                "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
            )
        raise UserError(
            f"{self.path} has neither {SINGLE_NAME} nor {INDEX_NAME}; point the model path at a folder with HF weights."
        )

    def names(self) -> set[str]:
        return set(self._file_of)

    def _slice(self, name: str) -> Any:  # safetensors' slice object has no public type
        if name not in self._file_of:
            raise UserError(
                f"tensor {name} is missing in {self.path}; its weights do not fit its config.json, get a complete copy."
            )
        file_name = self._file_of[name]
        if file_name not in self._open:
            if not (self.path / file_name).is_file():
                raise UserError(f"{self.path} lacks the file {file_name}, which holds {name}; get a complete copy of the folder.")
            self._open[file_name] = safe_open(self.path / file_name, framework="pt")
        return self._open[file_name].get_slice(name)

    def shape(self, name: str) -> list[int]:
        return list(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """In safetensors' spelling, e.g. BF16."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Entries [start, stop) along ``dim`` (0 or 1). The other bytes of the tensor are not touched."""
        tensor: Tensor = self._slice(name)[start:stop] if dim == 0 else self._slice(name)[:, start:stop]
        return tensor


def _check(folder: SafetensorsFolder, rule: Rule) -> None:
    """The folder's tensors are what its config.json says, and not quantised: slices of others would be silently wrong."""
    for name, size in rule.sizes.items():
        found = folder.shape(name)[rule.dim]
        if found != size:
            raise UserError(
                f"tensor {name} in {folder.path} has {found} entries along dim {rule.dim} where its config.json says {size}; "
                "fix config.json or use the weights that belong to it."
            )
        if folder.dtype(name) not in _PLAIN_DTYPES:
            raise UserError(f"tensor {name} in {folder.path} is quantised ({folder.dtype(name)}); use the bf16 checkpoint.")


@torch.no_grad()
def load_hf_weights(model: nn.Module, hf: HFModelConfig, folder: str | Path, groups: ModelGroups) -> None:
    """Fill this rank's parameters in place, cast to their dtype; the head of a value model keeps its values. Not collective.

    Load before an optimizer is made: a mixed-precision optimizer copies fp32 main weights from the parameters. UserError if the
    folder lacks a tensor or has one of another size.
    """
    reader = SafetensorsFolder(folder)
    for name, parameter in mapped_parameters(model).items():
        rule = rule_for(name, hf)
        _check(reader, rule)
        loaded = rule.load(reader.read, groups.tp_rank, groups.layout.tp)
        if loaded.shape != parameter.shape:
            raise UserError(
                f"{', '.join(rule.sizes)} in {reader.path} make a parameter of shape {tuple(loaded.shape)} where its "
                f"config.json says {tuple(parameter.shape)}; fix config.json or use the weights that belong to it."
            )
        fp8.load(parameter, loaded)
