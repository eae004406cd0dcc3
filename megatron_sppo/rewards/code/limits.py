"""The unit of the limits on a graded program, which are in ``config/code_limits.py``."""

MIB = 1 << 20  # bytes
