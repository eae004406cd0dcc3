"""The shapes of a run's models: from the folder's config.json, or by name for published models that are not on this machine."""

from __future__ import annotations

from pathlib import Path

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.reshard.catalogue import MoEModelConfig
from megatron_sppo.reshard.published import PUBLISHED

# What can be trained, in order of size.
KNOWN = {name: hf for name, hf in PUBLISHED.items() if not isinstance(hf, MoEModelConfig)}


def model_shape(path: str, knob: str) -> tuple[HFModelConfig, str]:
    """The model's shape and where it was found; UserError where neither a folder nor a known name."""
    folder = Path(path)
    if (folder / "config.json").is_file():
        return read_hf_config(folder, knob), f"{path}/config.json"
    name = folder.name
    for known in (name, name.removesuffix("-Instruct"), name.removesuffix("-Base")):
        if known in KNOWN:
            return KNOWN[known], f"the published {known}"
    if isinstance(PUBLISHED.get(name), MoEModelConfig):
        raise UserError(
            f"{knob}={path} is a mixture of experts, which cannot be trained yet: choose a dense Qwen2, Qwen2.5 or Qwen3"
        )
    raise UserError(
        f"{knob}={path} has no config.json here and its name is none that `plan` knows: "
        f"point it at an HF model folder, or end it in one of {', '.join(KNOWN)}"
    )
