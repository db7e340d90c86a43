"""Models sharded over the two ranks."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402


def fully_sharded(model: Any, mesh: Any = None, **options: Any) -> Any:
    """The model, each of its linear layers sharded by itself, as FSDP2 is used, over both ranks or over a mesh of them."""
    mesh = mesh or init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)
