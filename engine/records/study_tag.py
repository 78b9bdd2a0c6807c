"""The tag that says which study a run belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

STUDY_TAG = "study:"  # every run of a study carries this and the study's name


def study_tag(study: str) -> str:
    """The tag that the runs of a study carry."""
    return f"{STUDY_TAG}{study}"


def of_study(frame: pd.DataFrame, study: str | None) -> pd.DataFrame:
    """The rows of the runs of one study, by their column `tags`; all of them without a name."""
    return frame[[study_tag(study) in _listed(tags) for tags in frame.tags]] if study else frame


def studies_of(frame: pd.DataFrame) -> list[str]:
    """Names of the studies that any run belongs to, in the order of the alphabet."""
    every = {tag for tags in frame.tags for tag in _listed(tags) if tag.startswith(STUDY_TAG)}
    return sorted(tag.removeprefix(STUDY_TAG) for tag in every - {STUDY_TAG})


def _listed(tags: object) -> list[str]:
    """A cell of the tags' column; a run without any may hold None there."""
    return [str(one) for one in tags] if hasattr(tags, "__iter__") and not isinstance(tags, str) else []
