"""Limits on one graded program."""

from __future__ import annotations

from dataclasses import dataclass, fields

from megatron_sppo.config.knobs import knob
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class CodeLimits:
    """Knobs of the reward `code`; a limit that is passed costs the program its reward."""

    test_seconds: float = knob(4.0, "wall and CPU time of one test")
    program_seconds: float = knob(30.0, "wall time of all tests of a program together")
    memory_mib: int = knob(1024, "address space of a program")
    stack_mib: int = knob(64, "stack of the main thread, and default stack of others")
    output_mib: float = knob(8.0, "stdout and stderr of one test together, or one returned value")
    file_mib: int = knob(16, "largest file, and all files together, that a test may write in its folder in memory")
    processes: int = knob(32, "threads of a program, where the kernel counts them per sandbox; new processes are never allowed")
    open_files: int = knob(64, "open descriptors of a program")
    workers: int = knob(0, "programs graded at once by this process; 0 = one per core, at most 8")
    allow_weak_isolation: bool = knob(False, "grade even where network or files cannot be shut off; only for trusted programs")
    tests_in_child: bool = knob(
        True, "run assert tests that cannot be taken apart inside the program's process, where a program could forge them"
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, least = getattr(self, spec.name), MINIMA.get(spec.name)
            if least is not None and not value >= least:
                raise UserError(
                    f"reward.code.{spec.name}={value} must be at least {least}: set reward.code.{spec.name}={spec.default}"
                )


MINIMA = {
    "test_seconds": 0.1,
    "program_seconds": 0.1,
    "memory_mib": 64,
    "stack_mib": 1,
    "output_mib": 0.001,
    "file_mib": 1,
    "processes": 1,
    "open_files": 16,
    "workers": 0,
}
