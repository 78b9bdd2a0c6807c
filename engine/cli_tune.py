"""The `draftbench tune` command: a domain target made from a base model."""

from __future__ import annotations
