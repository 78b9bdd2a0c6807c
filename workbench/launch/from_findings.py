"""The study that would decide a claim, as Findings links to it: the address names the claim, never the recipe."""

from __future__ import annotations

from engine.errors import DraftbenchError
from engine.findings.claims import CLAIMS
from engine.findings.home import evaluate_home
from engine.findings.study_grid import MissingStudy
from engine.study.spec import StudySpec, parse_study
from workbench.shared import queries

_BEGIN, _OF = "would decide: ", " of study "
BLANK = "YOUR_"  # in a recipe: something for the reader to fill in, so that it cannot start as it is


def name_of(claim: str, study: str | None) -> str:
    """The value of Launch's parameter `study` for the claim, tested on every run or on those of one study."""
    return f"{_BEGIN}{claim}" + (f"{_OF}{study}" if study else "")


def is_claim(name: str) -> bool:
    """Whether a value of the parameter names a claim that there is."""
    return name.startswith(_BEGIN) and _parts(name)[0] in CLAIMS


def title(name: str) -> str:
    """'Would decide: White box beats black box'."""
    claim, study = _parts(name)
    return f"Would decide: {CLAIMS[claim].title}" + (f" (runs of {study})" if study else "")


def deciding(name: str) -> MissingStudy:
    """The study as Findings shows it. Raises DraftbenchError if the claim needs none now."""
    claim, of = _parts(name)
    study = evaluate_home(queries.home(), of or None).wanted[claim].study
    if study is None:
        raise DraftbenchError(
            f"no study would decide \u201c{CLAIMS[claim].title}\u201d",
            "the runs decide it already, or there is none to start from",
            "the page Findings shows the verdict",
        )
    return study


def spec(study: MissingStudy) -> StudySpec:
    """Its recipe, ready to be planned. Raises DraftbenchError if it has blanks or a file of it is not here."""
    return parse_study(study.text, study.file_name, queries.home().root)


def _parts(name: str) -> tuple[str, str]:
    claim, _, study = name.removeprefix(_BEGIN).partition(_OF)
    return claim, study
