"""Which engine answers which prompt, and with which seed: pure functions, the same on every rank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def deal_prompts(num_tokens: Sequence[int], num_engines: int) -> tuple[tuple[int, ...], ...]:
    """Prompt indices of each engine, ascending; engines differ by at most one prompt and get similar numbers of prompt tokens.

    Prompts are dealt from the longest to the shortest, forth and back over the engines. Counts come first because decoding, whose
    length nobody knows yet, costs more than reading the prompt.

    Example: lengths (9, 1, 5, 7) on 2 engines -> 9 | 7, 5 back to engine 1, 1 to engine 0 -> ((0, 1), (2, 3)).
    """
    hands: list[list[int]] = [[] for _ in range(num_engines)]
    longest_first = sorted(range(len(num_tokens)), key=lambda index: (-num_tokens[index], index))
    for place, index in enumerate(longest_first):
        turn, seat = divmod(place, num_engines)
        hands[seat if turn % 2 == 0 else num_engines - 1 - seat].append(index)
    return tuple(tuple(sorted(hand)) for hand in hands)


def response_seed(plan_seed: int, prompt_id: str, sample: int) -> int:
    """63-bit seed of one response: a function of what is asked, not of who answers or when."""
    digest = hashlib.blake2b(f"{plan_seed}/{sample}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
