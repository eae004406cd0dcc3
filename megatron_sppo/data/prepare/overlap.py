"""Contamination: which benchmark problems share half or more of their 13-grams with a training problem."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 13
THRESHOLD = 0.5
WORD = re.compile("[a-z0-9]+")

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    benchmark_row: int
    train_row: int
    fraction: float  # of the benchmark problem's n-grams that stand in the training problem


def ngrams(statement: str) -> frozenset[Gram]:
    """Distinct runs of 13 words (letters and digits, lower case); a shorter text is one run, a text without words none."""
    words = WORD.findall(statement.lower())
    if len(words) <= NGRAM:
        return frozenset([tuple(words)] if words else [])
    return frozenset(tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1))


def find_overlaps(benchmark: Sequence[str], train: Sequence[str], threshold: float = THRESHOLD) -> list[Overlap]:
    """Pairs of statements with at least ``threshold`` of the benchmark's n-grams in common, in benchmark order.

    Only the benchmark's n-grams are indexed, so memory follows the smaller set.
    """
    grams = [ngrams(statement) for statement in benchmark]
    holders: defaultdict[Gram, list[int]] = defaultdict(list)
    for row, found in enumerate(grams):
        for gram in found:
            holders[gram].append(row)
    pairs = []
    for train_row, statement in enumerate(train):
        shared = Counter(row for gram in ngrams(statement) for row in holders.get(gram, ()))
        pairs += [
            Overlap(row, train_row, count / len(grams[row]))
            for row, count in shared.items()
            if count >= threshold * len(grams[row])
        ]
    return sorted(pairs, key=lambda pair: (pair.benchmark_row, pair.train_row))
