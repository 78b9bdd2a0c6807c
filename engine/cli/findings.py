"""The command `findings`: the paper's claims, tested on the runs of this home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.text import console
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import home


def findings(
    study: Annotated[str | None, typer.Option("--study", help="Use only the runs of this study.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a report with figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of text.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Print the recipe of the study that would decide this claim, for example white_box."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the paper's claims on your runs.

    Prints the effect, its interval and a verdict for each claim, and the study that would decide what is open.

    \b
    Example:
      draftbench findings
      draftbench findings --json --study first
      draftbench findings --html findings.html
      draftbench findings --recipe white_box
    """
    from engine.cli.text import findings as text
    from engine.findings.as_json import as_json as findings_as_json
    from engine.findings.home import evaluate_home, measured_studies

    if as_json and (markdown or recipe):
        raise DraftbenchError(
            "--json was given with --markdown or --recipe", "only one form can be printed", "give one of them"
        )
    evaluation = evaluate_home(home(), study)
    studies = measured_studies(home()) if study else []
    if studies and study not in studies:
        raise DraftbenchError(
            f"no measured run here belongs to a study {study!r}",
            "a run belongs to the study that started it",
            did_you_mean(str(study), studies),
        )
    report = findings_as_json(evaluation, study)
    if html is not None:
        _write_report(html, study)
    if recipe is not None:
        console.print_document(_recipe(report, recipe))
    elif as_json:
        console.print_json(report)
    elif markdown:
        console.print_document(text.markdown(report))
    else:
        text.findings(report)
        if html is not None:
            console.line(f"\nreport: {html}")


def _recipe(report: dict[str, object], key: str) -> str:
    claims = {claim["key"]: claim for claim in report["claims"]}  # type: ignore[attr-defined]
    if key not in claims:
        raise DraftbenchError(f"no claim is called {key!r}", "", did_you_mean(key, claims))
    study = claims[key]["would_decide"]
    if study is None:
        raise DraftbenchError(
            f"no study of more runs would decide {key!r}",
            f"the verdict is: {claims[key]['verdict']} ({claims[key]['reason']})",
            "`draftbench findings` shows the evidence for each claim",
        )
    return str(study["recipe"])


def _write_report(path: Path, study: str | None) -> None:
    """Write the HTML report. The workbench draws it, which the engine does not import, so it runs as a program."""
    import subprocess
    import sys
    from importlib.util import find_spec

    from engine.fileio import disk_errors
    from engine.paths import PROJECT_ROOT

    if find_spec("streamlit") is None or find_spec("plotly") is None:
        raise DraftbenchError(
            "the report needs Plotly and Streamlit, which are not installed",
            "the workbench draws its figures",
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
