"""Sequence-level PPO (SPPO) for reasoning language models on Megatron-core and vLLM."""

__version__ = "0.1.0"
