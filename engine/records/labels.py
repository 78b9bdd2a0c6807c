"""`labels.json`: what people say about a run. The recipe of a run never changes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from engine.records import files
from engine.records.record import Record, Text


class Labels(Record):
    """Labels of one run. An archived run is left out of lists, not deleted."""

    FILE: ClassVar[str] = files.LABELS

    title: Text = ""
    tags: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    notes: Text = ""
    pinned: bool = False
    archived: bool = False
    baseline: bool = False
    """The run that others are compared with; one at most."""
