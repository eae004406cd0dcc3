"""Coverage-guided fuzzing of the math graders with atheris (not a requirement: ``pip install atheris mpmath`` elsewhere).

python tools/fuzz_math_grader.py -max_total_time=3600 -rss_limit_mb=1024 -timeout=10 CORPUS_DIR

An input is an answer and a gold: raw bytes, or pieces of the grammar. What must hold: the reward is 0 or 1, the parent
spends less than two seconds of its own on a pair, nothing is raised, and a gold in a box is not "different" from itself.
The worker processes limit themselves (memory, time); that they die is no fault.
"""

from __future__ import annotations

import sys
import time

import atheris

with atheris.instrument_imports(include=["megatron_sppo.rewards"]):
    from megatron_sppo.rewards.math import grade_detailed

LIMIT_SECONDS = 2.0
PIECES = [
    *r"\frac \dfrac12 \sqrt \sqrt[3] { } ( ) [ ] , ; | ! ^ _ + - * / = < > \le \ne \approx \pm \mp \in \cup \cap".split(),
    *r"\setminus \to \cdot \text{ \text{cm} \text{or} \mathrm{ \pi x y n e i 0 1 2 12 3.5 .5 1e5 1,000 025 10^{9} % \%".split(),
    *r"\$ $ ~ \, \! \quad : ' … \ldots \begin{pmatrix} \end{pmatrix} \\ & \left \right \left( \right) \{ \} \infty".split(),
    *r"\emptyset \sin \cos^2 \ln \log_2 \log \arctan ^\circ \overline \binom \mathbb{R} \lfloor \rfloor \lceil \rceil".split(),
    *r"\sum_{n=1}^{ \int_0^1 dx \prod \lim x^2 2^{10} ± √ ½ ² ∞ ≤ or and cm \boxed{ \boxed </think> \fbox{ mod".split(),
    *r"\pmod{ 3\frac{1}{2} 2_{10} _8 \{x\mid f(x) |x| -1 (-1) 1/2 \times 10^{-3} no apples 3:4 5:30".split(),
    *r"\over \choose \angle{ABC} \mu \Omega \phantom{0} \mathbb{R}^+ ** answer: AB |x| 0<|x|< 12:30 5!3! \\[4pt] ] [".split(),
    *("(B) ", r"\textbf{(B)}\ ", "1 234", " apples", " ", "\n", "\x00", "\ud800", "\u202e", "٤"),
]
slowest = 0.0


def pieces(provider: atheris.FuzzedDataProvider, most: int) -> str:
    return "".join(PIECES[provider.ConsumeIntInRange(0, len(PIECES) - 1)] for _ in range(provider.ConsumeIntInRange(0, most)))


def one_input(data: bytes) -> None:
    global slowest  # noqa: PLW0603
    provider = atheris.FuzzedDataProvider(data)
    mode = provider.ConsumeIntInRange(0, 7)
    if mode == 0:
        gold, answer = provider.ConsumeUnicode(60), provider.ConsumeUnicode(400)
    elif mode == 1:
        gold, answer = pieces(provider, 6), provider.ConsumeUnicode(200)
    else:
        gold, answer = pieces(provider, 12), pieces(provider, 40)
    answer *= provider.ConsumeIntInRange(1, 300) if mode == 7 else 1
    response = answer if mode == 6 else f"\\boxed{{{answer}}}"
    started = time.process_time()
    verdict = grade_detailed(gold, response)
    other = grade_detailed(gold, response, "reasoning360")
    own = grade_detailed(gold, f"\\boxed{{{gold}}}")
    seconds = time.process_time() - started
    assert verdict.reward in {0.0, 1.0} and other.reward in {0.0, 1.0}
    assert own.answer != gold.strip() or own.reward == 1.0 or not gold.strip(), (gold, own)
    assert seconds < LIMIT_SECONDS, (seconds, gold, response)
    if seconds > slowest:
        slowest = seconds
        print(f"slowest so far {seconds:.3f} s: {gold[:60]!r} | {response[:120]!r}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
