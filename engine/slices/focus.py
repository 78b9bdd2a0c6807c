"""A focused training set: the training prompts that hold most of a draft's refusals.

The figures of a run come from held-out prompts, and a draft that was trained on one of these would only seem better.
So they say what is hard, and nothing more: what is trained on next is chosen among the run's training prompts, or those
of a file (`--prompts`, a log of other days), by the draft's own refusals on the target's answers to them. A file with a
held-out prompt in it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.capture.store import Capture
from engine.chat.prompt import Prompt
from engine.config.schema import PromptSource, Recipe
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.fileio import read_json, sha256_file, write_atomic, write_json
from engine.measure.acceptance import PromptAcceptance, exact_acceptance, target_entropy
from engine.models.draft import load_draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.paths import Home, resolve_input
from engine.progress import SILENT, Progress
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.plan import plan_training, split_prompts
from engine.runs.session import capture, load_target
from engine.slices.categories import category_of
from engine.slices.reading import TokenReader, token_reader
from engine.slices.selection import ScoredPrompt, worst_prompts
from engine.slices.tokens import BY, CONTEXTS, ENTROPIES, POSITIONS, in_buckets

__all__ = ["FocusReport", "focused_prompts", "target_entropy"]
