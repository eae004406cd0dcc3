"""The one door to gymnasium, MuJoCo and Box2D, which are extras."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from megatron_sppo.errors import UserError

MODULES = {"hopper": ("gymnasium", "mujoco", "imageio", "glfw"), "lunarlander": ("gymnasium", "Box2D", "pygame")}


def require(task: str) -> Any:
    """gymnasium, where all that ``task`` needs is installed; else UserError."""
    for module in MODULES.get(task, ("gymnasium",)):
        if find_spec(module) is None:
            raise UserError(f"task={task} needs the package {module}: pip install 'megatron_sppo[control]'")
    import gymnasium

    return gymnasium
