"""Limits on one graded program: the section `reward.code` of the config."""

from __future__ import annotations

from megatron_sppo.config.code_limits import CodeLimits

__all__ = ["MIB", "CodeLimits"]

MIB = 1 << 20
