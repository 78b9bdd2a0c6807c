"""The training modes, a file each with a function `source(material)` that gives its batches; see engine/catalogue.py.

offline    several epochs over a capture
online     learns from refusals while it serves a stream of queries
on_policy  the draft writes, the target scores
"""

from __future__ import annotations

import importlib

from engine.distill.source import BatchSource, Material, Query

__all__ = ["Material", "Query", "batch_source"]


def batch_source(material: Material) -> BatchSource:
    """The batches of the recipe's mode."""
    mode = importlib.import_module(f"{__name__}.{material.settings.mode}")
    source: BatchSource = mode.source(material)
    return source
