"""``megatron-sppo plan``: what a run would need and take, computed from its config before a GPU is asked for."""
