"""Make many mistakes in one process, where importing vLLM costs its seconds once: ``mistakes.py CASES.json OUTPUT.json``.

A case is ``{"command": [...], "world_size": N}``. On one rank the console script's own ``main`` runs; for more ranks, which would
have to be started, all that comes before a model is built: ``prepare``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_sppo import cli
from megatron_sppo.build import prepare
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.parallel import platform


def make(case: dict[str, Any]) -> dict[str, Any]:
    stderr, started = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(case["command"]) if case["world_size"] == 1 else prepared(case["command"], case["world_size"])
    seconds, timeout = time.perf_counter() - started, platform.world_timeout() if dist.is_initialized() else timedelta()
    return {"code": code, "stderr": stderr.getvalue(), "seconds": seconds, "timeout_minutes": timeout / timedelta(minutes=1)}


def prepared(command: list[str], world_size: int) -> int:
    _, config, *overrides = command
    try:
        prepare(load_config(Config, [Path(config)], overrides), world_size)
    except UserError as error:
        print(f"megatron-sppo: error: {error}", file=sys.stderr)
        return cli.USER_MISTAKE
    return 0


if __name__ == "__main__":
    cases, output = map(Path, sys.argv[1:])
    results = {name: make(case) for name, case in json.loads(cases.read_text()).items()}
    output.write_text(json.dumps(results))
