"""A home of fifty runs, one of them damaged: are the other forty-nine still shown, and is the damaged one named?

Each case damages one run in one way, then calls everything that reads run folders: the list, the index (also rebuilt),
the doctor, findings, the queue, labels, the time of earlier runs, `show`, `archive` and `remove`.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.hostile_cases.case import Case
from engine.cli.text import console, listing, runs
from engine.config.reading import dump_recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.findings.home import evaluate_home
from engine.index.connection import reading
from engine.index.ingest import ingest_all, rebuild
from engine.index.queries import overview
from engine.jobs import queue
from engine.paths import Home
from engine.planning.doctor import _runs
from engine.planning.earlier_runs import _pace, _stamp
from engine.runs.description import describe
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import change_labels, read_labels
from engine.runs.listing import list_runs
from engine.runs.removing import remove_run

RUNS, BAD, QUEUED = 50, "run-07", "run-20"
DOCUMENTS = ("status.json", "labels.json", "provenance.json", "training.json", "measure/summary.json")
TABLES = ("prompts", "positions", "rounds", "tokens")
Damage = Callable[[Path], object]


def cases() -> list[Case]:
    """One case a kind of damage."""
    atexit.register(shutil.rmtree, _template(), True)
    kinds = [*_of_documents(), *_of_recipe(), *_of_status(), *_of_values(), *_of_events(), *_of_tables(), *_of_folder()]
    return [Case(name, functools.partial(_attempt, damage)) for name, damage in kinds]


def _attempt(damage: Damage, folder: Path) -> None:
    """Damage one run of a home and use every reader of run folders."""

    home = _home()
    others = {run.id: run.status().state for run in run_folders(home) if run.id != BAD}
    assert len(others) == RUNS - 1, len(others)
    damage(home.runs / BAD)
    entries = [entry for entry in os.scandir(home.runs) if entry.name not in others]
    there = [entry.name for entry in entries if entry.is_symlink() or entry.is_dir()]  # a file is no run

    def check(what: str, states: dict[str, str]) -> None:
        hidden = {run_id: state for run_id, state in others.items() if states.get(run_id) != state}
        assert not hidden, f"{what}: {hidden} not shown as they are"
        bad = [run_id for run_id in states if run_id not in others]
        assert len(bad) == len(there), f"{what}: {there} shown as {bad}"

    rows = list_runs(home)
    check("runs", {row["run"]: row["state"] for row in rows})
    assert all(row["problem"] for row in rows if row["state"] == "damaged"), "runs: damaged without a reason"
    for again in (lambda: None, lambda: rebuild(home)):
        again()
        with reading(home.index) as con:
            frame = overview(con)
        check("index", {str(run): str(state) for run, state in zip(frame.run_id, frame.state, strict=True)})
        assert ingest_all(home).written == [], "index: written again although nothing has changed"
    index = next(check for check in _runs(home) if check.name == "index")
    assert index.ok, f"doctor: {index.condition}"
    assert len(evaluate_home(home).runs) >= 3, "findings: the others take no part"
    waiting = [run.id for run in queue.waiting(home)]
    assert QUEUED in waiting, f"queue: {waiting}"
    queue.at_work(home)
    _estimate(home)
    change_labels(home, RunFolder.open(home, "run-01"), baseline=True)
    assert RunFolder.open(home, "latest").id
    _print(home, rows)
    for row in rows:
        if row["run"] not in others:
            bad = RunFolder.open(home, row["run"])
            _archive(home, bad)
            remove_run(home, bad)
    left = {row["run"]: row["state"] for row in list_runs(home)}
    assert left == others, f"after removal: {set(left) ^ set(others)}"


def _archive(home: Any, run: Any) -> None:
    """A run whose folder can hold no labels can only be removed."""

    if run.path.is_dir():
        try:
            change_labels(home, run, archived=True)
        except (DraftbenchError, OSError):
            return
        assert read_labels(run).archived


def _estimate(home: Any) -> None:
    """The time of earlier runs, for a target that is absent: only the reading is tested."""

    for path in home.runs.iterdir():
        if not path.name.startswith("."):
            _pace(path, _stamp(path))


def _print(home: Any, rows: list[dict[str, Any]]) -> None:
    """What `runs`, `runs --json` and `show` print, on a terminal that takes UTF-8 and nothing else."""

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    with redirect_stdout(out):
        listing.runs(rows)
        console.print_json(rows)
        for row in rows:
            if row["run"] not in {f"run-{number:02}" for number in range(RUNS)} - {BAD}:
                try:
                    description = describe(RunFolder.open(home, row["run"]))
                    console.print_json(description)
                    runs.run(description)
                except DraftbenchError:
                    continue
        out.flush()


def _home() -> Home:
    """The home of all cases, made once: what the case before has changed is brought back."""
    root, home = _template(), Home(_template() / "home")
    for entry in list(os.scandir(home.runs)):
        if entry.name == BAD or not (root / "whole" / entry.name).is_dir():
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    shutil.copytree(root / "whole" / BAD, home.runs / BAD)
    shutil.copy(root / "whole" / "run-01" / "labels.json", home.runs / "run-01" / "labels.json")
    for path in home.root.glob("index.duckdb*"):
        path.unlink()
    shutil.copy(root / "index.duckdb", home.index)
    return home


@functools.lru_cache(maxsize=1)
def _template() -> Path:
    """Fifty runs: most are stopped before they were measured, one waits, five are measured and may be compared."""
    root = Path(tempfile.mkdtemp(prefix="hostile-runs-"))
    home = Home(root / "home")
    for number in range(RUNS):
        make_run(home.runs / f"run-{number:02}", number)
    shutil.copytree(home.runs, root / "whole")
    child = os.fork()  # a process that has once opened a database may not be forked
    if child == 0:
        ingest_all(home)
        os._exit(0)
    os.waitpid(child, 0)
    shutil.move(home.index, root / "index.duckdb")
    return root


def make_run(folder: Path, number: int) -> None:
    """One small run; those with a measurement have all their files."""

    measured = number in (1, 2, 3, 4, 7)
    state = "done" if measured else "queued" if folder.name == QUEUED else "cancelled"
    (folder / "measure").mkdir(parents=True)
    loss = "jsd" if number % 2 else "forward_kl"
    recipe = parse_recipe(
        {
            "name": "small",
            "prompts": {"train": "a.jsonl", "heldout": "b.jsonl", "domain": "law"},
            "train": {"seed": number // 2, "loss": loss},
        }
    )
    (folder / "config.yaml").write_text(dump_recipe(recipe))
    status: dict[str, Any] = {"state": state, "phase": "", "created_at": f"2026-01-01T00:00:{number:02}+00:00"}
    status |= {"queued_at": status["created_at"]} if state == "queued" else {}
    _write(folder / "status.json", json.dumps(status))
    _write(folder / "labels.json", json.dumps({"title": f"run {number}", "tags": ["study:x"], "notes": ""}))
    if not measured:
        return
    events = [{"kind": "train", "step": step, "loss": 1 / step, "seconds": step * 0.1} for step in range(1, 9)]
    _write(folder / "events.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    seen = {"train": 9, "train_hash": "t", "heldout_hash": "h"}
    provenance = {"prompts": seen, "target_fingerprint": "f", "target_dtype": "float32", "device": "cpu", "machine": {}}
    _write(
        folder / "provenance.json", json.dumps({**provenance, "captures": {"training": {"prompts": 9, "tokens": 90}}})
    )
    _write(folder / "training.json", json.dumps({"steps_done": 8, "tokens_seen": 90, "seconds": 0.8, "best_step": 8}))
    metric = {"temperature": 1.0, "metric": "exact", "value": 0.5, "low": 0.4, "high": 0.6, "n_prompts": 6}
    metrics = [{**metric, "draft": draft} for draft in ("initial", "trained")]
    conditions = {"num_draft_tokens": 3, "dtype": "float32", "device": "cpu", "heldout_hash": "h", "heldout_prompts": 6}
    summary = {
        "metrics": metrics,
        "improvement": [],
        "conditions": conditions,
        "certificate": {"passed": True, "checks": []},
    }
    _write(folder / "measure" / "summary.json", json.dumps(summary))
    for name, frame in frames().items():
        frame.to_parquet(folder / "measure" / f"{name}.parquet")


def frames() -> dict[str, pd.DataFrame]:
    """The tables of a small measurement."""
    key = {"draft": "trained", "temperature": 1.0}
    ids = [f"p{number}" for number in range(6)]
    counts = {"drafted": 6, "accepted": 4, "rejected": 1, "discarded": 1, "emitted": 6, "rounds": 2}
    probabilities = {"p": 0.4, "q": 0.3, "overlap": 0.5}
    sums = {"exact_sum": 1.5, "agree_sum": 2.0, "n_positions": 3}
    both = [{**key, "draft": draft, "prompt_id": i} for draft in ("initial", "trained") for i in ids]
    each = [{**key, "prompt_id": i} for i in ids]
    rounds = {"round": 0, "num_draft_tokens": 3, "accepted": 2, "emitted": 3, "draft_s": 0.1, "verify_s": 0.2}
    return {
        "prompts": pd.DataFrame([{**row, "group": "g", "text": "why?", **sums, **counts} for row in both]),
        "positions": pd.DataFrame(
            [{**row, "position": n, "token_id": n, "agree": True, **probabilities} for row in each for n in range(3)]
        ),
        "rounds": pd.DataFrame([{**row, **rounds, "overhead_s": 0.01} for row in each]),
        "tokens": pd.DataFrame(
            [
                {
                    **row,
                    "round": 0,
                    "slot": n,
                    "position": n,
                    "token_id": n,
                    "text": "a",
                    "fate": fate,
                    "u": 0.1,
                    **probabilities,
                }
                for row in each
                for n, fate in enumerate(("accepted", "bonus"))
            ]
        ),
    }


def _write(path: Path, content: str | bytes) -> None:
    """Replace the file: the one there is a hard link into the template."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


Kinds = Iterator[tuple[str, Damage]]


def _of_documents() -> Kinds:
    """The same damage to each JSON document and to the recipe."""
    contents: dict[str, bytes] = {
        "empty": b"",
        "zero bytes": bytes(2000),
        "not UTF-8": b"\xff\xfe{\x00}\x00",
        "a list": b"[1]",
        "a number": b"7",
        "null": b"null",
        "100,000 brackets": b"[" * 100_000,
        "100,000 braces": b'{"a":' * 100_000,
        "900 levels": b'{"a":' * 900 + b"1" + b"}" * 900,
        "an integer of 5,000 digits": b'{"state": ' + b"9" * 5000 + b"}",
        "strange characters": b'{"\\ud800": "\\udfff", "state": "done", "title": "\\ud83d \\u0000 \\u202e"}',
    }
    for document in (*DOCUMENTS, "config.yaml", "events.jsonl"):
        for name, content in contents.items():
            yield f"{document}: {name}", lambda run, d=document, c=content: _write(run / d, c)
        for name, damage in _PLACES.items():
            yield f"{document}: {name}", lambda run, d=document, make=damage: make(run / d)
        yield f"{document}: cut", lambda run, d=document: _write(run / d, (run / d).read_bytes()[:60])


def _in_place(make: Callable[[Path], Any]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(5_000_000_000)


_PLACES: dict[str, Damage] = {
    "a folder in its place": _in_place(lambda path: (path / "x").mkdir(parents=True)),
    "a pipe in its place": _in_place(os.mkfifo),
    "a link to itself": _in_place(lambda path: path.symlink_to(path.name)),
    "a link to /dev/zero": _in_place(lambda path: path.symlink_to("/dev/zero")),
    "5 GB": _in_place(_sparse),
}


def _of_recipe() -> Kinds:
    edits = {
        "a seed of 2^64 - 1": ("seed: 3", "seed: 18446744073709551615"),
        "a key twice": ("name: small", "name: small\nname: other"),
        "an unknown key": ("name: small", "nmae: small"),
        "a lone surrogate": ("name: small", 'name: "\\ud800"'),
        "another lone surrogate": ("domain: law", 'domain: "\\udfff"'),
        "a date that is none": ("domain: law", "domain: 2024-02-31"),
        "a base": ("name: small", "name: small\nbase: /dev/zero"),
        "an alias bomb": ("name: small", "name: small\n" + "\n".join(_bomb())),
        "a list as a kind": ("mode: offline", "mode: [offline]"),
        "no number": ("epochs: 6.0", "epochs: .nan"),
        "a long title": ("name: small", f"name: {'x' * 300_000}"),
    }
    for name, (old, new) in edits.items():
        yield f"config.yaml: {name}", lambda run, o=old, n=new: _edit(run / "config.yaml", o, n)
    yield "config.yaml: missing", lambda run: (run / "config.yaml").unlink()
    yield "config.yaml: 100,000 dashes", lambda run: _write(run / "config.yaml", "- " * 100_000)


def _bomb() -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in the recipe"
    _write(path, text.replace(old, new, 1))


def _of_status() -> Kinds:
    ours = {"pid": os.getpid(), "pid_started": 0.0}
    values: dict[str, Any] = {
        "a pid of 1e999": {"state": "running", "pid": float("inf"), "pid_started": 1.0},
        "a pid of 2^70": {"state": "running", "pid": 2**70, "pid_started": 1.0},
        "a pid of -1": {"state": "running", "pid": -1, "pid_started": 1.0},
        "a pid that is text": {"state": "running", "pid": "1; rm", "pid_started": "x"},
        "a pid that is true": {"state": "running", "pid": True, "pid_started": True},
        "a pid of another process": {"state": "running", **ours},
        "a start that is NaN": {"state": "running", "pid": os.getpid(), "pid_started": float("nan")},
        "an unknown state": {"state": "melted"},
        "a state that is a list": {"state": ["done"]},
        "a state that is a number": {"state": 1e308},
        "no state": {"phase": "x"},
        "no date": {"state": "done", "created_at": "99999-01-01T00:00:00"},
        "a date at the end of time": {"state": "done", "created_at": "9999-12-31T23:59:59.999999-12:00"},
        "a date at the beginning of time": {"state": "done", "created_at": "0001-01-01T00:00:00+14:00"},
        "a date that is a mapping": {"state": "queued", "created_at": {}, "queued_at": {}},
        "queued since a list": {"state": "queued", "queued_at": [1, [2]]},
        "queued since NaN": {"state": "queued", "queued_at": float("nan")},
        "progress that is a list": {"state": "running", "progress": [1], **ours},
        "progress without end": {"state": "running", "progress": {"done": float("inf"), "total": 0}, **ours},
        "an error that is text": {"state": "failed", "error": "boom"},
        "an error of lists": {"state": "failed", "error": {"what": [1], "fix": {"a": 1}}},
        "a phase of 900,000 characters": {"state": "running", "phase": "x" * 900_000},
    }
    for name, value in values.items():
        yield f"status.json: {name}", lambda run, v=value: _write(run / "status.json", json.dumps(v))
    yield "status.json: missing", lambda run: (run / "status.json").unlink()


def _of_values() -> Kinds:
    """Whole JSON whose values are of other kinds than ours."""
    odd: dict[str, Any] = {
        "a list": [[1]],
        "a number": 1e308,
        "infinite": float("inf"),
        "an integer of 300 digits": 10**300,
    }
    places = {
        "labels.json": ("title", "tags", "notes", "archived"),
        "provenance.json": ("prompts", "captures", "machine", "measurement"),
        "training.json": ("steps_done", "tokens_seen"),
        "measure/summary.json": ("metrics", "conditions", "certificate", "speed", "improvement"),
    }
    for document, keys in places.items():
        for name, value in odd.items():
            yield (
                f"{document}: every value {name}",
                lambda run, d=document, k=keys, v=value: _change(run / d, dict.fromkeys(k, v)),
            )
    metric = {"draft": "trained", "metric": "exact", "temperature": 1.0, "value": 0.5}
    for name, change in {
        "a metric of 2^70 prompts": {"n_prompts": 2**70},
        "a metric beyond all numbers": {"value": float("inf"), "temperature": float("-inf")},
        "a metric of lists": {"metric": ["exact"], "draft": {}},
        "a metric with half a character": {"dtype": "\ud800"},
    }.items():
        value = {"metrics": [{**metric, **change}]}
        yield f"summary.json: {name}", lambda run, v=value: _change(run / "measure" / "summary.json", v)


def _change(path: Path, values: dict[str, Any]) -> None:
    _write(path, json.dumps({**json.loads(path.read_text()), **values}))


def _of_events() -> Kinds:
    lines = {
        "values of other kinds": (
            '{"kind": ["train"], "step": {}}\n{"kind": "train", "step": "x", "loss": []}\n7\n[]\nnull\n'
        ),
        "steps beyond 64 bits": (
            '{"kind": "train", "step": 1e999, "loss": 1}\n{"kind": "train", "step": 99999999999999999999}\n'
        ),
        "a line of 10 MB": '{"kind": "train", "step": 1, "loss": 1, "x": "' + "x" * 10_000_000 + '"}\n',
        "resumed at NaN": '{"kind": "train", "step": 2, "loss": 1}\n{"kind": "resumed", "step": NaN}\n',
        "resumed 20,000 times": '{"kind": "resumed", "step": 1}\n{"kind": "train", "step": 1, "loss": 1}\n' * 20_000,
        "half a line": '{"kind": "train", "st',
    }
    for name, content in lines.items():
        yield f"events.jsonl: {name}", lambda run, c=content: _write(run / "events.jsonl", c)


def _of_tables() -> Kinds:
    for table in TABLES:
        for name, damage in _table_damages().items():
            yield f"{table}.parquet: {name}", lambda run, t=table, d=damage: d(run / "measure" / f"{t}.parquet")


def _table_damages() -> dict[str, Damage]:
    def frame(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
        def damage(path: Path) -> None:
            changed = change(frames()[path.stem])
            path.unlink()
            changed.to_parquet(path)

        return damage

    def pages(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[4:200] = b"\xff" * 196
        _write(path, bytes(content))

    return {
        "empty": lambda path: _write(path, b""),
        "cut": lambda path: _write(path, path.read_bytes()[:-40]),
        "damaged pages": pages,
        "another table": frame(lambda _: pd.DataFrame({"other": [1]})),
        "texts for numbers": frame(lambda f: f.assign(temperature="warm")),
        "lists for texts": frame(lambda f: f.assign(prompt_id=[[1]] * len(f))),
        "beyond 64 bits": frame(lambda f: f.assign(**{c: 1e30 for c in f if f[c].dtype.kind == "i"})),
        "no numbers": frame(lambda f: f.assign(**{c: float("nan") for c in f if f[c].dtype.kind in "if"})),
        "infinite": frame(lambda f: f.assign(**{c: float("inf") for c in f if f[c].dtype.kind == "f"})),
        "each row twice": frame(lambda f: pd.concat([f, f])),
        "no rows": frame(lambda f: f.iloc[:0]),
        **{name: _PLACES[name] for name in ("a folder in its place", "a pipe in its place", "a link to itself")},
    }


def _of_folder() -> Kinds:
    def away(run: Path) -> Path:
        shutil.rmtree(run)
        return run

    yield "the folder: empty", lambda run: away(run).mkdir()
    yield "the folder: a file in its place", lambda run: away(run).write_text("x")
    yield "the folder: a link to itself", lambda run: away(run).symlink_to(run.name)
    yield "the folder: a link to nowhere", lambda run: away(run).symlink_to("nowhere")
    yield "the folder: a link to /", lambda run: away(run).symlink_to("/")
    yield "the folder: a link to another run", lambda run: away(run).symlink_to("run-01")
    yield "the folder: a pipe in its place", lambda run: os.mkfifo(away(run))
    yield (
        "the folder: measure is a file",
        lambda run: (shutil.rmtree(run / "measure"), _write(run / "measure", "x")),
    )
    yield "the folder: measure is a link to itself", _measure_link
    for name in ("run-07 (copy)", "-rf", "a\nb", "x" * 200, "été", "100%", "a..b"):
        yield f"the folder: named {name[:20]!r}", lambda run, n=name: run.rename(run.with_name(n))
    yield (
        "the folder: a name that is not UTF-8",
        lambda run: os.rename(os.fsencode(run), os.fsencode(run.parent) + b"/\xff\xfe"),
    )
    yield "the folder: .lock is a folder", lambda run: (run / ".lock").mkdir()
    yield "the folder: output.txt is a pipe", lambda run: os.mkfifo(run / "output.txt")


def _measure_link(run: Path) -> None:
    shutil.rmtree(run / "measure")
    (run / "measure").symlink_to("measure")
