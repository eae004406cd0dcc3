"""What an example does on each rank that torchrun has started."""

from __future__ import annotations

import sys
from pathlib import Path

from megatron_sppo.cli import main


def train(config: str) -> None:
    """`megatron-sppo train` on a config of this folder with the ``key=value`` words of the command line; ends the process."""
    sys.exit(main(["train", str(Path(__file__).parent / config), *sys.argv[1:]]))
