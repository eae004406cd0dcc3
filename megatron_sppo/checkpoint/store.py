"""The folder protocol of checkpoints: what is on disk at any moment, whatever crashed, is either complete or ignored.

    checkpoints/
      step_000010/          complete: it gets this name by one rename, after every rank has written everything
        actor/ critic/ rng/ trainer.json
      .writing-step_000020/ being written, or left by a crash
      .deleting-step_000005/
      latest                the name of the checkpoint to resume from
      best                  the name of the one with the best validation accuracy
      abandoned_step_000030 complete, but later than the step the run was resumed from; never deleted here

Only rank 0 may call what changes the folder. Pure Python: nothing here knows tensors or ranks.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "trainer.json"  # written last into a checkpoint's folder
_STEP = re.compile(r"step_(\d{6,})")
_WRITING, _DELETING, _ABANDONED, _POINTER = ".writing-", ".deleting-", "abandoned_", ".pointer-"


def step_name(step: int) -> str:
    return f"step_{step:06d}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The JSON beside a complete checkpoint's shards."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} is not a complete checkpoint (no {MANIFEST}); name a step_* folder of a checkpoints folder.")
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run. Paths need not exist before the first :meth:`begin`."""

    folder: Path
    keep_last: int
    keep_best: bool

    def complete(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        matches = [_STEP.fullmatch(child.name) for child in self.folder.iterdir() if (child / MANIFEST).is_file()]
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> Path | None:
        """The checkpoint to resume from: where ``latest`` points, else the newest complete one (announced), else None.

        Writing an older name into ``latest`` is how one goes back by hand.
        """
        steps = self.complete()
        named = self._read_pointer("latest")
        if named is not None and named in steps:
            if named != steps[-1]:
                log.warning("%s names step %d although step %d is complete: going back", self.folder / "latest", named, steps[-1])
            return self.folder / step_name(named)
        if not steps:
            return None
        log.warning(
            "%s does not name a complete checkpoint: falling back to the newest one, step %d", self.folder / "latest", steps[-1]
        )
        return self.folder / step_name(steps[-1])

    def best(self) -> Path | None:
        named = self._read_pointer("best")
        return self.folder / step_name(named) if named in self.complete() and named is not None else None

    def begin(self, step: int, parts: list[str]) -> Path:
        """An empty folder, with a subfolder for each part, that becomes the checkpoint when it is published."""
        self.folder.mkdir(parents=True, exist_ok=True)
        writing = self.folder / (_WRITING + step_name(step))
        if writing.exists():
            shutil.rmtree(writing)
        writing.mkdir()
        for part in parts:
            (writing / part).mkdir()
        return writing

    def publish(self, step: int, manifest: dict[str, Any], is_best: bool) -> Path:
        """Name the finished folder of :meth:`begin`, point ``latest`` (and ``best``) at it and delete what is not kept.

        The order matters: a crash after the rename and before ``latest`` costs one checkpoint interval, never the run. ``best``
        comes first, since a run resumed from an older ``latest`` reaches this step, and marks it, again.
        """
        writing, final = self.folder / (_WRITING + step_name(step)), self.folder / step_name(step)
        _write_durably(writing / MANIFEST, json.dumps(manifest, indent=1))
        if final.exists():
            self._delete(step)
        writing.rename(final)
        _sync_folder(self.folder)
        if is_best:
            self._write_pointer("best", step)
        self._write_pointer("latest", step)
        self._delete_old()
        return final

    def clean(self) -> None:
        """Delete what crashes left behind. Call it when nothing is being written."""
        if not self.folder.is_dir():
            return
        for child in sorted(self.folder.iterdir()):
            if child.name.startswith((_WRITING, _DELETING)):
                log.warning("deleting %s: an earlier run ended before it was complete", child)
                shutil.rmtree(child)
            elif child.name.startswith(_POINTER):
                child.unlink()

    def set_aside(self, after: int) -> None:
        """Rename the complete checkpoints later than step ``after``: they belong to a future that this run will not have.

        Left in place they would look newer than what this run saves, and retention would delete the wrong ones.
        """
        for step in (step for step in self.complete() if step > after):
            target = self.folder / (_ABANDONED + step_name(step))
            number = 1
            while target.exists():
                number += 1
                target = self.folder / f"{_ABANDONED}{step_name(step)}_{number}"
            log.warning("this run goes on from step %d: %s is set aside as %s", max(after, 0), step_name(step), target.name)
            (self.folder / step_name(step)).rename(target)
        for pointer in ("latest", "best"):
            if self._read_pointer(pointer) not in self.complete():
                (self.folder / pointer).unlink(missing_ok=True)

    def _delete_old(self) -> None:
        steps = self.complete()
        kept = {*steps[-max(1, self.keep_last) :], self._read_pointer("latest")}
        if self.keep_best:
            kept.add(self._read_pointer("best"))
        for step in steps:
            if step not in kept:
                self._delete(step)

    def _delete(self, step: int) -> None:
        """Under another name first: a half-deleted folder must not look complete."""
        doomed = self.folder / (_DELETING + step_name(step))
        if doomed.exists():
            shutil.rmtree(doomed)
        (self.folder / step_name(step)).rename(doomed)
        shutil.rmtree(doomed)

    def _read_pointer(self, name: str) -> int | None:
        path = self.folder / name
        match = _STEP.fullmatch(path.read_text().strip()) if path.is_file() else None
        return int(match[1]) if match else None

    def _write_pointer(self, name: str, step: int) -> None:
        temporary = self.folder / (_POINTER + name)
        _write_durably(temporary, step_name(step) + "\n")
        temporary.replace(self.folder / name)
        _sync_folder(self.folder)


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only when its folder was synchronised."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
