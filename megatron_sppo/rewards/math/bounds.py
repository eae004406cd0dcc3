"""Limits that hold before any work is done on model text, and the errors that say which one was met.

Every stage in the calling process is linear in the text or bounded by these; whatever could run longer runs in a worker
that is killed (``workers.py``).
"""

from __future__ import annotations

MAX_CHARACTERS = 2000  # of a box that is parsed; a longer one can only be equal to its gold as text
MAX_TOKENS = 1000
MAX_DEPTH = 120  # of grammar rules within each other; a pair of brackets is four of them
MAX_TREE_DEPTH = 100
MAX_DIGITS = 400  # of one written number
MAX_BITS = 20_000  # of an exact integer: 2^{10000} fits, a tower does not
MAX_EXPONENT = 5_000
MAX_TERMS = 400  # of a polynomial
MAX_NAME = 10_000  # characters of an opaque atom: it spells what is inside, and twice as much at each level of powers
MAX_OPERATIONS = 8_000  # monomial products in one comparison: about 0.05 s; beyond them the workers decide
MAX_FACTORIAL = 1_000
MAX_ITEMS = 64  # of a list, set, tuple or matrix
MAX_SIGN_BRANCHES = 8  # values that plus-minus signs may stand for
SYMBOLIC_SECONDS = 1.0  # of worker time for one (gold, response) pair
WORKER_BYTES = 1 << 30


class Unreadable(ValueError):
    """The text is outside the grammar or its limits: it is not graded as mathematics."""


class TooComplex(ArithmeticError):
    """An exact computation in the calling process would pass its limits."""
