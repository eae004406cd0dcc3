"""The data sets that can be prepared, as a table: what each is for, where the hub keeps it, what its rows are known to need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MathSet:
    name: str
    role: Literal["train", "benchmark"]
    hub: str  # the set's usual name on the Hugging Face hub, for messages
    split: str  # which of the hub's files are taken where several splits lie side by side
    num_problems: int  # distinct problems of the published set; 0 = not fixed
    float_golds: bool = False  # its integer golds went through doubles: above 2^53 they are damaged


SETS = {
    entry.name: entry
    for entry in (
        MathSet("dapo", "train", "BytedTsinghua-SIA/DAPO-Math-17k", "train", 0, float_golds=True),
        MathSet("deepscaler", "train", "agentica-org/DeepScaleR-Preview-Dataset", "train", 0),
        MathSet("aime24", "benchmark", "HuggingFaceH4/aime_2024", "train", 30),
        MathSet("aime25", "benchmark", "opencompass/AIME2025", "test", 30),
        MathSet("amc23", "benchmark", "math-ai/amc23", "test", 40),
        MathSet("math500", "benchmark", "HuggingFaceH4/MATH-500", "test", 500),
        MathSet("minerva", "benchmark", "math-ai/minervamath", "test", 272),
    )
}
