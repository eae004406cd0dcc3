r"""One math grader on the repository's rows (tests/data_rows/math_*): a Markdown row of agreement and errors.

python tools/compare_math_graders.py strict                               # --blind: only the rows labelled blind; --list: errors
pip install 'math-verify[antlr4_13_2]==0.9.0' 'verl==0.9.1' pylatexenc    # in an environment of their own
PYTHONPATH=. python tools/compare_math_graders.py math-verify             # reasoning360, verl-prime, verl-dapo

What other projects grade is the last box after the last ``</think>``, boxed again, so that all see the same answer; where
there is none they are taken to say "wrong". verl's modules are loaded by path, as the package itself wants ray. prime_math
evaluates text that a model wrote: run it where that does no harm.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
import statistics
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_sppo.rewards.math import grade
from megatron_sppo.rewards.math.extract import last_box

ROWS = Path(__file__).resolve().parents[1] / "tests" / "data_rows"
LIMIT_SECONDS = 5


@dataclass(frozen=True)
class Row:
    gold: str
    response: str
    right: bool


Grader = Callable[[str, str], bool]


def rows() -> Iterator[Row]:
    for line in (ROWS / "math_strict.tsv").read_text(encoding="utf-8").splitlines() * ("--blind" not in sys.argv):
        if line and not line.startswith("#"):
            gold, answer, right, _ = line.split("\t")
            yield Row(gold, f"\\boxed{{{answer}}}", right == "1")
    for line in (ROWS / "math_blind.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Row(row["gold"], row["response"], bool(row["right"]))


def ours(name: str, gold: str, response: str) -> bool:
    return grade(gold, response, name) == 1.0  # type: ignore[arg-type]  # one of the two names


def math_verify() -> Grader:
    library = importlib.import_module("math_verify")
    return lambda gold, answer: library.verify(library.parse(f"\\boxed{{{gold}}}"), library.parse(f"\\boxed{{{answer}}}"))


def verl(module: str) -> types.ModuleType:
    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    for name in ("verl", "verl.utils", "verl.utils.reward_score"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    limits = types.ModuleType("verl.utils.py_functional")
    limits.timeout_limit = lambda seconds: lambda function: function  # type: ignore[attr-defined]  # ours is around it
    sys.modules[limits.__name__] = limits
    return importlib.import_module(f"verl.utils.reward_score.{module}")


def verl_prime() -> Grader:
    module = verl("prime_math")
    return lambda gold, answer: bool(module.compute_score(f"\\boxed{{{answer}}}", gold)[0])


def verl_dapo() -> Grader:
    module = verl("math_dapo")
    return lambda gold, answer: bool(module.compute_score(f"\\boxed{{{answer}}}", gold, strict_box_verify=True)["acc"])


OTHERS: dict[str, Callable[[], Grader]] = {"math-verify": math_verify, "verl-prime": verl_prime, "verl-dapo": verl_dapo}


def of_the_box(grader: Grader, gold: str, response: str) -> bool:
    answer = last_box(response)
    return answer is not None and grader(gold, answer)


def late(*_: object) -> None:
    raise TimeoutError


def measure(name: str) -> str:
    grader = partial(ours, name) if name in {"strict", "reasoning360"} else partial(of_the_box, OTHERS[name]())
    counts: Counter[str] = Counter()
    seconds = []
    signal.signal(signal.SIGALRM, late)
    for row in rows():
        started = time.perf_counter()
        signal.alarm(LIMIT_SECONDS)
        try:
            verdict = grader(row.gold, row.response)
        except Exception as error:  # noqa: BLE001  (whatever a foreign grader raises is what is counted)
            counts["timeout" if isinstance(error, TimeoutError) else "exception"] += 1
            verdict = False
        finally:
            signal.alarm(0)
        seconds.append(time.perf_counter() - started)
        counts["right"] += verdict == row.right
        counts["false positive"] += verdict and not row.right
        counts["false negative"] += row.right and not verdict
        if verdict != row.right and "--list" in sys.argv:
            print(f"{row.gold!r} | {row.response[-120:]!r} | {row.right}", file=sys.stderr)
    total = len(seconds)
    cells = [
        f"{counts['right']} of {total} ({100 * counts['right'] / total:.1f} %)",
        *(str(counts[each]) for each in ("false positive", "false negative", "exception", "timeout")),
        f"{1000 * statistics.median(seconds):.2f} ms",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("| grader | right | false positives | false negatives | exceptions | timeouts | median |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for grader_name in [argument for argument in sys.argv[1:] if not argument.startswith("--")]:
        print(measure(grader_name))
