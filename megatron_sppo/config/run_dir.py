"""Can the results of a run be written? Asked before anything is spent on it."""

from __future__ import annotations

import os
from pathlib import Path

from megatron_sppo.errors import UserError


def check_run_dir(run_dir: str) -> None:
    """UserError where the results could not be written; creates nothing."""
    existing = next(folder for folder in (Path(run_dir), *Path(run_dir).absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"run_dir={run_dir} cannot be made, {existing} is a file: name a folder")
    if not os.access(existing, os.W_OK):
        raise UserError(f"run_dir={run_dir} cannot be written, {existing} is not yours to write in: name a folder of your own")
