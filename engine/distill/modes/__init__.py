"""The modes of training, a file each, named as the catalogue and `train.mode` call them.

A file has a function `source(material)` that gives the mode's batches; nothing else needs to know it.
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
