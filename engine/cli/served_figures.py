"""Commands of `served`: what servers report of a run's draft, beside what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.catalogue import SERVERS
from engine.cli.options import Json, RunId
from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import home

_Temperature = Annotated[
    float | None, typer.Option("--temperature", help="Temperature of the requests, if the files do not say.")
]
_Gamma = Annotated[
    int | None, typer.Option("--gamma", help="Maximum draft tokens per round, if the server does not report it.")
]
_Rule = Annotated[
    Literal["argmax", "sampled"] | None,
    typer.Option("--proposals", help="How the server proposes; by default, as the server does unless told otherwise."),
]
_PMin = Annotated[float | None, typer.Option("--p-min", help="The server's confidence cut-off (llama.cpp).")]
_Weights = Annotated[
    str | None, typer.Option("--weights", help="Precision of the served target, such as Q4_K_M or BF16.")
]
_Name = Annotated[str | None, typer.Option("--name", help="What to call it; by default the server and the time.")]


def import_figures(
    run_id: RunId,
    files: Annotated[list[Path], typer.Argument(help="What the server reported; of two scrapes, the earlier one.")],
    after: Annotated[Path | None, typer.Option("--after", help="The second scrape of /metrics.")] = None,
    form: Annotated[
        str | None, typer.Option("--from", help="Form of the files, one of those above, if it is not recognised.")
    ] = None,
    server: Annotated[str | None, typer.Option("--server", help=f"One of {', '.join(SERVERS)}.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the model, if a scrape has several.")] = None,
    temperature: _Temperature = None,
    gamma: _Gamma = None,
    proposals: _Rule = None,
    p_min: _PMin = None,
    weights: _Weights = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Requests at once, which the speed depends on.")
    ] = None,
    name: _Name = None,
    as_json: Json = False,
) -> None:
    """Keep what a server reported beside the run's own measurement, and compare the two.

    Forms: vllm (answers with metrics.speculative_decoding), vllm-bench (vllm bench serve), prometheus (/metrics of
    vLLM, SGLang, llama.cpp, TensorRT-LLM: a scrape before and one after), sglang (answers with meta_info), llama.cpp
    (answers with timings, or the log), tensorrt-llm (specDecodingStats, or answers), lm-studio (answers with stats),
    aiperf (profile_export.jsonl). JSON may be one object, a list, lines, or a stream as it was sent.

    \b
    Example:
      draftbench served import latest before.txt --after after.txt --temperature 0
    """
    from engine.cli.text import served_figures as text
    from engine.deploy.importing import Stated, measurement_of
    from engine.deploy.measurements import check_free, keep, new_name
    from engine.deploy.readers.forms import read_files
    from engine.runs.folder import RunFolder

    run = RunFolder.open(home(), run_id)
    if name is not None:
        check_free(run.path, name)
    paths = [path.expanduser() for path in [*files, *([after] if after else [])]]
    reading, known_form, documents = read_files(paths, "prometheus" if after and form is None else form, model)
    stated = Stated(server, temperature, gamma, proposals, p_min, weights, concurrency)
    measurement = measurement_of(reading, known_form, stated)
    called = name or new_name(run.path, measurement.server)
    measurement = keep(run.path, called, measurement, documents)
    text.report(run, [(called, measurement, "")], as_json=as_json)


def show(
    run_id: RunId,
    name: Annotated[str | None, typer.Argument(help="One of the run's served measurements; all if empty.")] = None,
    as_json: Json = False,
) -> None:
    """List a run's served measurements, each with its verdict.

    \b
    Example:
      draftbench served show latest
    """
    from engine.cli.text import served_figures as text
    from engine.deploy.measurements import kept_measurements, one_measurement
    from engine.runs.folder import RunFolder

    run = RunFolder.open(home(), run_id)
    kept = kept_measurements(run.path) if name is None else [one_measurement(run.path, name)]
    text.report(run, [(one.name, one.measurement, one.problem) for one in kept], as_json=as_json)


def remove(
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="One of the run's served measurements.")],
    as_json: Json = False,
) -> None:
    """Delete a served measurement with the files that were copied beside it.

    \b
    Example:
      draftbench served remove latest vllm-20261128-101500
    """
    from engine.deploy.measurements import remove_measurement
    from engine.runs.folder import RunFolder

    run = RunFolder.open(home(), run_id)
    remove_measurement(run.path, name)
    console.print_json({"run": run.id, "removed": name}) if as_json else console.line(f"removed {name} from {run.id}")


def probe(
    url: Annotated[str, typer.Argument(help="Where the server's API begins, such as http://127.0.0.1:8000/v1.")],
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="Prompt file; the run's held-out ones if empty.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", help="Compare with this run and keep the figures there.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model on the server, if it has several.")
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option("--draft-model", help="Draft that each request names (LM Studio).")
    ] = None,
    temperatures: Annotated[str, typer.Option("--temperatures", help="Temperatures to ask at.")] = "0,1",
    limit: Annotated[
        int, typer.Option("--limit", help="How many prompts to send, beginning with the first.", min=1, max=10_000)
    ] = 60,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", help="Maximum tokens of an answer.  [default: as in the run, else 160]", min=2
        ),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="Which server it is, if it does not say so itself.")
    ] = None,
    gamma: _Gamma = None,
    proposals: _Rule = None,
    p_min: _PMin = None,
    weights: _Weights = None,
    key_env: Annotated[str | None, typer.Option("--key-env", help="Environment variable that holds its key.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Requests at once.", min=1, max=256)] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.", min=0.1)] = 120.0,
    name: _Name = None,
    as_json: Json = False,
) -> None:
    """Ask a live server, and compare what it counts with what was predicted.

    Sends the prompts at each temperature and reads what the server reports of speculation: in its answers, at its
    /metrics before and after, or both. Without --run nothing is kept.

    \b
    Example:
      draftbench served probe http://127.0.0.1:8080/v1 --run latest
    """
    from engine.cli.text import served_figures as text
    from engine.deploy.importing import Stated
    from engine.deploy.measurements import check_free, keep, new_name
    from engine.deploy.probe import Asked, probe
    from engine.deploy.probe_prompts import prompts_of, tokens_of
    from engine.progress import Progress
    from engine.runs.folder import RunFolder

    wanted = tuple(_numbers(temperatures))
    run = RunFolder.open(home(), run_id) if run_id is not None else None
    if name is not None:
        if run is None:
            raise DraftbenchError(
                "--name without --run", "nothing is kept without a run", "add --run, or leave out --name"
            )
        for temperature in wanted:
            check_free(run.path, _called(name, temperature))
    sent, notes = prompts_of(prompts, run, limit)
    asked = Asked(
        url,
        sent,
        wanted,
        max_new_tokens or tokens_of(run),
        model=model,
        draft_model=draft_model,
        key_env=key_env,
        concurrency=concurrency,
        timeout_s=timeout_s,
        notes=notes,
        stated=Stated(server, None, gamma, proposals, p_min, weights),
    )
    results = probe(asked, Progress(quiet=as_json))
    if run is None:
        text.unkept([one.measurement for one in results], as_json=as_json)
        return
    base = name or new_name(run.path, results[0].measurement.server)
    kept = []
    for one in results:
        called = _called(base, one.measurement.temperature)
        kept.append((called, keep(run.path, called, one.measurement, one.documents), ""))
    text.report(run, kept, as_json=as_json)


def _called(base: str, temperature: float) -> str:
    """What the measurement at one temperature is called; two temperatures never have one name."""
    return f"{base}-t{repr(temperature).removesuffix('.0')}"


def _numbers(text: str) -> list[float]:
    """The numbers of a list such as '0,1'. Raises DraftbenchError."""
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise DraftbenchError(
            f"--temperatures {text!r} is not a list of numbers", "each is asked at", "for example 0,1"
        ) from None
