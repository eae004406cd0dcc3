"""examples/slurm/train.sbatch with an `srun` and a `scontrol` that write down what they were asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
QUICK = 'echo "srun $*" >>"$LOG"'
UNTIL_STOPPED = QUICK + '; while [ ! -e "$RUN_DIR/stop" ]; do sleep 0.05; done'


def start(folder: Path, srun: str, **environment: str) -> subprocess.Popen[str]:
    scontrol = 'if [ "$1" = show ]; then echo gpu17; else echo "scontrol $*" >>"$LOG"; fi'
    for name, body in (("srun", srun), ("scontrol", scontrol)):
        program = folder / name
        program.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        program.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "gpu[17-18]",
        "LOG": str(folder / "log"),
        "RUN_DIR": str(folder / "run"),
    }
    bare = {"PATH": f"{folder}:{os.environ['PATH']}", **slurm, **environment}
    command = ["bash", str(SCRIPT), "examples/sppo_qwen3_8b.sh", "steps=3"]
    return subprocess.Popen(command, cwd=ROOT, env=bare, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def send_when_running(process: subprocess.Popen[str], folder: Path) -> None:
    for _ in range(200):
        if log(folder):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)


def test_a_job_in_a_container(tmp_path: Path) -> None:
    staging = {"STAGE_FROM": "/lustre/models", "STAGE_TO": "/local/models"}
    process = start(tmp_path, QUICK, CONTAINER="sppo.sqsh", MOUNTS="/local:/local", **staging)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    stage, ranks = log(tmp_path)
    assert stage.endswith(" stage /lustre/models /local/models")
    mounts = f"--container-image sppo.sqsh --container-workdir {ROOT} --container-mounts {ROOT}:{ROOT},/local:/local"
    run = f"bash examples/launch.sh examples/sppo_qwen3_8b.sh run_dir={tmp_path}/run steps=3"
    assert ranks == f"srun --kill-on-bad-exit=1 {mounts} {run}"


def test_every_node_learns_where_to_meet(tmp_path: Path) -> None:
    process = start(tmp_path, 'echo "$MASTER_ADDR $MASTER_PORT" >>"$LOG"')
    process.communicate(timeout=30)
    assert log(tmp_path) == ["gpu17 22345"]


def test_before_the_limit_it_saves_and_requeues(tmp_path: Path) -> None:
    process = start(tmp_path, UNTIL_STOPPED)
    send_when_running(process, tmp_path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "requeued as job 12345" in output
    assert log(tmp_path)[-1] == "scontrol requeue 12345"


def test_a_stop_of_the_job_before_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop").touch()
    process = start(tmp_path, QUICK + '; test ! -e "$RUN_DIR/stop"')
    process.communicate(timeout=30)
    assert process.returncode == 0 and len(log(tmp_path)) == 1


def test_ranks_that_do_not_end_are_not_waited_for(tmp_path: Path) -> None:
    process = start(tmp_path, QUICK + "; exec sleep 20", GRACE="1")
    started = time.monotonic()
    send_when_running(process, tmp_path)
    process.wait(timeout=15)
    assert log(tmp_path)[-1] == "scontrol requeue 12345" and time.monotonic() - started < 15


def test_a_failed_run_fails(tmp_path: Path) -> None:
    process = start(tmp_path, QUICK + "; exit 3")
    process.communicate(timeout=30)
    assert process.returncode == 3 and len(log(tmp_path)) == 1
