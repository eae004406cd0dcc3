"""The folder protocol, with a crash before every single disk operation."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.checkpoint.store import CheckpointStore, read_manifest, step_name
from megatron_sppo.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2, keep_best=True)


def save(store: CheckpointStore, step: int, is_best: bool = False) -> None:
    folder = store.begin(step, ["actor", "critic"])
    for part in ("actor", "critic"):
        (folder / part / "shard").write_text(f"{part} {step}")
    store.publish(step, {"step": step}, is_best)


def content(folder: Path | None) -> tuple[int, str, str]:
    assert folder is not None
    return read_manifest(folder)["step"], (folder / "actor" / "shard").read_text(), (folder / "critic" / "shard").read_text()


def names(store: CheckpointStore) -> set[str]:
    return {child.name for child in store.folder.iterdir()}


def test_nothing_saved_is_none(store: CheckpointStore) -> None:
    assert store.latest() is None and store.best() is None and store.complete() == []
    store.clean()
    store.set_aside(after=-1)
    assert not store.folder.exists()


def test_what_is_being_written_is_not_listed(store: CheckpointStore) -> None:
    save(store, 5)
    folder = store.begin(10, ["actor"])
    (folder / "actor" / "shard").write_text("half")
    assert store.complete() == [5] and content(store.latest()) == (5, "actor 5", "critic 5")


def test_retention_keeps_the_last_and_the_best(store: CheckpointStore) -> None:
    for step in (5, 10, 15, 20, 25):
        save(store, step, is_best=step == 10)
    assert store.complete() == [10, 20, 25]
    assert content(store.best())[0] == 10 and content(store.latest())[0] == 25
    save(store, 30, is_best=True)
    assert names(store) == {"step_000025", "step_000030", "latest", "best"}


def test_the_best_goes_too_when_it_is_not_to_be_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    save(store, 5, is_best=True)
    save(store, 10)
    assert store.complete() == [10] and store.best() is None


@pytest.mark.parametrize("keep_last", [0, 1])
def test_the_newest_is_always_kept(tmp_path: Path, keep_last: int) -> None:
    store = CheckpointStore(tmp_path, keep_last, keep_best=False)
    for step in (1, 2):
        save(store, step)
    assert store.complete() == [2] and content(store.latest())[0] == 2


def test_what_is_being_written_survives_retention(store: CheckpointStore) -> None:
    store.begin(40, ["actor"])
    for step in (10, 20, 30):
        save(store, step)
    assert ".writing-step_000040" in names(store)


def test_the_same_step_again_replaces_it(store: CheckpointStore) -> None:
    save(store, 5)
    folder = store.begin(5, ["actor", "critic"])
    (folder / "actor" / "shard").write_text("new")
    store.publish(5, {"step": 5}, is_best=False)
    latest = store.latest()
    assert latest is not None and (latest / "actor" / "shard").read_text() == "new"
    assert names(store) == {"step_000005", "latest"}


@pytest.mark.parametrize("text", ["step_000099\n", "", "../../etc", "step_x"])
def test_a_pointer_to_nowhere_falls_back_and_says_so(store: CheckpointStore, caplog: pytest.LogCaptureFixture, text: str) -> None:
    save(store, 5)
    save(store, 10)
    (store.folder / "latest").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert content(store.latest())[0] == 10
    assert "falling back to the newest one, step 10" in caplog.text


def test_a_missing_pointer_does_not_restart_the_run(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    save(store, 5)
    (store.folder / "latest").unlink()
    assert content(store.latest())[0] == 5
    assert "falling back" in caplog.text


def test_going_back_by_hand_sets_the_later_ones_aside(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        save(store, step, is_best=step == 20)
    (store.folder / "latest").write_text("step_000010\n")
    assert content(store.latest())[0] == 10
    store.set_aside(after=10)
    assert store.complete() == [10] and store.best() is None
    assert "abandoned_step_000020" in names(store) and "step_000020 is set aside" in caplog.text
    save(store, 15)
    save(store, 20)
    assert store.complete() == [15, 20]
    store.set_aside(after=15)
    assert {"abandoned_step_000020", "abandoned_step_000020_2"} <= names(store)


def test_a_fresh_start_in_an_old_folder_keeps_its_own_checkpoints(store: CheckpointStore) -> None:
    for step in (90, 100):
        save(store, step)
    store.set_aside(after=-1)
    assert store.latest() is None
    for step in (1, 2, 3):
        save(store, step)
    assert store.complete() == [2, 3] and content(store.latest())[0] == 3


def test_other_files_are_left_alone(store: CheckpointStore) -> None:
    save(store, 5)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "step_000007").mkdir()  # has no manifest
    store.clean()
    for step in (10, 20, 30):
        save(store, step)
    assert {"notes.txt", "step_000007"} <= names(store) and store.complete() == [20, 30]


def test_an_incomplete_folder_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        read_manifest(tmp_path / "nowhere")


# --- crashes -------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """The machine stops here."""


_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
_armed: dict[str, Any] = {"folder": None, "left": 0}


def _before_disk_operation(event: str, args: tuple[Any, ...]) -> None:
    """CPython's audit hook: called before an operation happens; an exception prevents it."""
    folder = _armed["folder"]
    if folder is None or not (event in _CHANGES or (event == "open" and args[1] is not None and "w" in args[1])):
        return
    if _armed["left"] == 0:
        _armed["folder"] = None
        raise Crash(f"before {event}{args}")
    _armed["left"] -= 1


@contextmanager
def crash_before(operation: int, folder: Path) -> Iterator[None]:
    if not _armed.get("installed"):
        sys.addaudithook(_before_disk_operation)
        _armed["installed"] = True
    _armed.update(folder=folder, left=operation)
    try:
        yield
    finally:
        _armed["folder"] = None


def crashes(work: Any, folder: Path, operation: int) -> bool:
    try:
        with crash_before(operation, folder):
            work()
    except Crash:
        return True
    return False


@pytest.mark.parametrize("replaces", [False, True])
def test_a_crash_before_any_disk_operation_of_a_save_loses_at_most_that_save(tmp_path: Path, replaces: bool) -> None:
    operation, outcomes = 0, set()
    while True:
        store = CheckpointStore(tmp_path / str(operation), keep_last=1, keep_best=True)
        save(store, 5, is_best=True)
        save(store, 10)
        new = 10 if replaces else 20
        crashed = crashes(lambda: save(store, new, is_best=True), store.folder, operation)  # noqa: B023 -- called at once
        if not crashed:
            break
        resumed = CheckpointStore(store.folder, keep_last=1, keep_best=True)
        resumed.clean()
        step, actor, critic = content(resumed.latest())
        outcomes.add(step)
        assert (actor, critic) == (f"actor {step}", f"critic {step}"), "complete and of one save"
        best = resumed.best()
        assert best is None or content(best)[0] in (5, new)
        resumed.set_aside(after=step)
        save(resumed, 30)
        assert content(resumed.latest())[0] == 30
        assert not any(name.startswith(".") for name in names(resumed)), "nothing half-written is left"
        operation += 1
    assert operation > 12, "the crashes were real"
    assert outcomes == ({5, 10} if replaces else {10, 20}), "before: the old one, after: the new one"


def test_a_crash_while_cleaning_up_is_mended_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    operation = 0
    while True:
        store = CheckpointStore(tmp_path / str(operation), keep_last=2, keep_best=True)
        save(store, 5)
        store.begin(10, ["actor"])
        (store.folder / ".deleting-step_000001" / "actor").mkdir(parents=True)
        (store.folder / ".pointer-latest").write_text("step_0")
        crashed = crashes(store.clean, store.folder, operation)
        store.clean()
        assert names(store) == {"step_000005", "latest"}
        if not crashed:
            break
        operation += 1
    assert operation >= 5
    assert "an earlier run ended before it was complete" in caplog.text


def test_the_manifest_is_json(store: CheckpointStore) -> None:
    save(store, 5)
    assert json.loads((store.folder / step_name(5) / "trainer.json").read_text()) == {"step": 5}
