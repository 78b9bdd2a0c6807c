"""The runner of a model: all its rows in one cache of slots where the model fits it, else each row by itself.

Both have the same methods: `feed`, `feed_ids`, `take_back`, `keep_rows`, `replace` and `close`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from engine.decode.row_by_row import RowByRow
from engine.decode.slot_fit import fits_slots
from engine.decode.slot_runner import SlotRunner
from engine.errors import DraftbenchError
from engine.models.team import mirrored

AnyRunner = SlotRunner | RowByRow


@partial(mirrored, keep=True)
def runner_for(model: Any, *, is_draft: bool = False, slots: int = 0) -> AnyRunner:
    """A runner for rows of different lengths of a model.

    A draft also reads ids that only its target has an embedding for, as its last one; a target reads what it can.
    `slots`: how many tokens the longest row will have, where that is known, so that its cache is allocated once.
    Raises DraftbenchError for a model that cannot be decoded speculatively, or is in training mode.
    """
    if model.training:
        raise DraftbenchError(
            f"{type(model).__name__} is in training mode",
            "dropout would make it another model at every token",
            "call its eval() before decoding",
        )
    if fits_slots(model):
        return SlotRunner(model, is_draft=is_draft, slots=slots)
    return RowByRow(model, is_draft=is_draft)
