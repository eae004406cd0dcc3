"""Rewards: what counts as success. A custom one is any import path ``package.module:callable_or_class``."""
