"""Run while the GPU image is built, where there is no GPU: what must fit together imports, and PyTorch is still the base's."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import version
from pathlib import Path

BASE = Path("/opt/base.txt")
NEEDED = ("torch", "transformer_engine", "megatron.core", "vllm", "megatron_sppo")
WELCOME = ("apex", "flash_attn")  # Transformer Engine brings what Megatron needs of them


def main() -> None:
    kept = dict(line.split("==", 1) for line in BASE.read_text(encoding="utf-8").split())
    for name in NEEDED:
        importlib.import_module(name)
    assert version("torch") == kept["torch"], f"torch {version('torch')} has replaced the base's {kept['torch']}"
    missing = [name for name in WELCOME if importlib.util.find_spec(name) is None]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "vllm", "megatron-core"))
    print(f"{versions}; the base lacks {' and '.join(missing) or 'nothing'}")


if __name__ == "__main__":
    main()
