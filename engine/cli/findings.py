"""The `draftbench findings` command: the paper's claims on the runs of this home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.text import console
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import home


def findings(
    study: Annotated[str | None, typer.Option("--study", help="Only the runs of this study.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report, figures inside, to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of text.")] = False,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Print the study that would decide this claim, by its key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the paper's claims on the runs there are: ratio, interval, verdict, and what would decide them.

    \b
    Example:
      draftbench findings
      draftbench findings --json --study first
      draftbench findings --html findings.html
      draftbench findings --recipe white_box
    """
    from engine.cli.text import findings as reports_findings
    from engine.findings.as_json import as_json as told
    from engine.findings.of_home import evaluate_home, measured_studies

    if as_json and (markdown or recipe):
        raise DraftbenchError("--json was given with --markdown or --recipe", "one form is printed", "give one of them")
    found = evaluate_home(home(), study)
    known = measured_studies(home()) if study else []
    if known and study not in known:
        raise DraftbenchError(
            f"no measured run here belongs to a study {study!r}",
            "a run belongs to the study that it was started by",
            did_you_mean(str(study), known),
        )
    values = told(found, study)
    if html is not None:
        _write_report(html, study)
    if recipe is not None:
        console.print_document(_recipe(values, recipe))
    elif as_json:
        console.print_json(values)
    elif markdown:
        console.print_document(reports_findings.markdown(values))
    else:
        reports_findings.findings(values)
        if html is not None:
            console.line(f"\nreport: {html}")


def _recipe(values: dict[str, object], key: str) -> str:
    claims = {claim["key"]: claim for claim in values["claims"]}  # type: ignore[attr-defined]
    if key not in claims:
        raise DraftbenchError(f"no claim is called {key!r}", "", did_you_mean(key, claims))
    study = claims[key]["would_decide"]
    if study is None:
        raise DraftbenchError(
            f"no study is wanted for {key!r}",
            f"the verdict is: {claims[key]['verdict']} ({claims[key]['reason']})",
            "`draftbench findings` shows what each claim rests on",
        )
    return str(study["recipe"])


def _write_report(path: Path, study: str | None) -> None:
    """The report is drawn by the workbench, which the engine does not import: it is asked as a program."""
    import subprocess
    import sys
    from importlib.util import find_spec

    from engine.fileio import disk_errors
    from engine.paths import PROJECT_ROOT

    if find_spec("streamlit") is None or find_spec("plotly") is None:
        raise DraftbenchError(
            "the report needs Plotly and Streamlit, which are not installed",
            "its figures are those of the workbench",
            "pip install 'draftbench[workbench]', or use --markdown, which needs neither",
        )
    target = path.expanduser().absolute()
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "workbench.findings.report", str(target), *([study] if study else [])]
    done = subprocess.run(line, cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise DraftbenchError(
            f"the report could not be written to {path}", last[0][:300], "try --markdown, or the Findings page"
        )
