"""Errors that are the user's to mend: one sentence that names the knob, its value and the fix; shown without a stack trace."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the configuration, the data or the call."""


def require(holds: bool, sentence: str) -> None:
    """:class:`UserError` with ``sentence`` unless it holds."""
    if not holds:
        raise UserError(sentence)


class WeightMismatch(RuntimeError):
    """vLLM does not hold the trainer's weights."""


class ParityError(RuntimeError):
    """Trainer and rollout engine disagree on log-probs beyond the configured gate."""
