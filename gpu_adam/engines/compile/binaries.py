"""Kernels for GPUs in the cache folder: a symbol and a binary are one entry."""

from __future__ import annotations

import json
from collections.abc import Callable

from . import disk as cache

Binary = tuple[str, bytes]
"""The kernel's symbol and its machine code or PTX."""


def kept(name: str, build: Callable[[], Binary]) -> Binary:
    """What the cache folder holds under ``name``; where that is nothing, or nothing that can be used, what is built now and kept there."""
    found: Binary | None = cache.read(name, _unpacked)
    if found is None:
        found = build()
        cache.write(name, _packed(*found))
    return found


def _packed(symbol: str, binary: bytes) -> bytes:
    return json.dumps({"symbol": symbol, "bytes": len(binary)}).encode() + b"\n" + binary


def _unpacked(content: bytes) -> Binary:
    head, _, binary = content.partition(b"\n")
    told = json.loads(head)
    symbol, length = told["symbol"], told["bytes"]
    if not isinstance(symbol, str) or not symbol or not binary or length != len(binary):
        raise ValueError(f"{symbol!r} with {len(binary)} bytes of {length!r} is no kernel")
    return symbol, binary
