"""The whole way through the command line on a tiny pair: run, look, compare, export, stop, resume, and the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.cli import main
from engine.paths import home
from engine.runs.folder import RunFolder


@pytest.fixture
def recipe(tmp_path: Path, tiny_target_folder: Path) -> Path:
    """A recipe over eight prompts that trains two layers in a second or two."""
    for name, count in (("train", 8), ("heldout", 6)):
        lines = [json.dumps({"id": f"{name}{i}", "prompt": f"{name} question number {i * 7}?"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = tmp_path / "tiny.yaml"
    values: dict[str, Any] = {
        "name": "tiny",
        "target": {"model": str(tiny_target_folder), "dtype": "float32", "device": "cpu"},
        "draft": {"layers": [0, 3]},
        "prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
        "capture": {"max_new_tokens": 12, "batch_size": 4},
        "train": {"epochs": 2, "batch_size": 4, "eval_every": 2, "checkpoint_every": 1, "precision": "float32"},
        "measure": {
            "max_new_tokens": 10, "trace_prompts": 3, "speed_prompts": 2, "speed_tokens": 6, "certificate_prompts": 2,
            "certificate_tokens": 4, "bootstrap_samples": 200,
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit status, what --json printed on standard output, and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(printed.out), printed.err


def run_tiny(capsys: pytest.CaptureFixture[str], recipe: Path, *more: str) -> Any:
    status, told, errors = call(capsys, "run", str(recipe), *more)
    assert status == 0, errors
    return told


def test_a_run_is_measured_listed_shown_indexed_and_exported(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_tiny(capsys, recipe)
    assert told["state"] == "done"
    assert told["certificate"]["passed"]
    rates = {(m["draft"], m["metric"]) for m in told["metrics"]}
    assert {("initial", "exact"), ("trained", "exact"), ("trained", "per_examined"), ("trained", "tau")} <= rates
    folder = Path(told["folder"])
    names = {"config.yaml", "status.json", "events.jsonl", "log.txt", "provenance.json", "draft", "measure"}
    assert names <= {p.name for p in folder.iterdir()}
    origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert origin["seeds"]["train"] == 0
    assert origin["versions"]["torch"]
    assert len(origin["target_fingerprint"]) == 64
    assert origin["prompts"]["heldout_hash"] == told["conditions"]["heldout_hash"]

    assert [row["run"] for row in call(capsys, "runs")[1]] == [told["run"]]
    assert call(capsys, "show", told["run"])[1]["summary"]["metrics"]
    assert call(capsys, "index", "--rebuild")[1]["written"] == [told["run"]]

    status, exported, errors = call(capsys, "export", told["run"], "--out", str(tmp_path / "draft"))
    assert status == 0, errors
    assert exported["ok"]
    assert "exact" in (tmp_path / "draft" / "README.md").read_text(encoding="utf-8")
    status, refused, _ = call(capsys, "export", told["run"], "--out", str(tmp_path))
    assert status == 2
    assert refused["error"]["fix"]


def test_a_second_run_reuses_the_captures_and_is_compared_pairwise(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_tiny(capsys, recipe)
    answers = {p: p.stat().st_mtime_ns for p in home().captures.glob("*/answers.jsonl")}
    second = run_tiny(capsys, recipe, "--set", "train.loss=reverse_kl")
    assert {p: p.stat().st_mtime_ns for p in home().captures.glob("*/answers.jsonl")} == answers
    status, told, errors = call(capsys, "compare", first["run"], second["run"])
    assert status == 0, errors
    assert all(row["comparable"] for row in told["rows"])
    rows = [row for row in told["rows"] if row["metric"] == "exact"]
    for side, run in (("a", first), ("b", second)):
        exact = [m["value"] for m in run["metrics"] if m["metric"] == "exact" and m["draft"] == "trained"]
        assert [row[side] for row in rows] == pytest.approx(exact)


def test_a_cancelled_run_resumes_to_the_same_weights(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_tiny(capsys, recipe)
    from engine.progress import Progress

    advance, seen = Progress.advance, []

    def stop_at_second_step(self: Progress, units: int = 1, **numbers: Any) -> None:
        advance(self, units, **numbers)
        if "loss" in numbers:
            seen.append(1)

    monkeypatch.setattr(Progress, "advance", stop_at_second_step)
    monkeypatch.setattr(Progress, "stop_wanted", property(lambda self: len(seen) == 2))
    monkeypatch.setattr(Progress, "stop_if_asked", lambda self: _raise_if(len(seen) == 2))
    status, _, errors = call(capsys, "run", str(recipe))
    assert status == 130
    cancelled = next(r["run"] for r in call(capsys, "runs")[1] if r["run"] != whole["run"])
    assert f"--resume {cancelled}" in errors
    assert RunFolder.open(home(), cancelled).status()["state"] == "cancelled"
    monkeypatch.undo()
    monkeypatch.setenv("DRAFTBENCH_HOME", str(Path(whole["folder"]).parent.parent))
    status, resumed, errors = call(capsys, "run", "--resume", cancelled)
    assert status == 0, errors
    assert resumed["state"] == "done"
    weights = [Path(run["folder"]) / "draft" / "last" / "draft.safetensors" for run in (whole, resumed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def _raise_if(wanted: bool) -> None:
    from engine.errors import Cancelled

    if wanted:
        raise Cancelled("train")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.epoch=2", "epochs"),
        ("train.loss=foward_kl", "forward_kl"),
        ("prompts.train=nowhere.jsonl", "nowhere.jsonl"),
        ("draft.layers=99", "4 layers"),
        ("target.model=no/such/model", "no/such/model"),
        ("measure.temperatures=[-1]", "negative"),
    ],
)
def test_bad_input_is_explained_and_leaves_nothing_behind(
    recipe: Path, capsys: pytest.CaptureFixture[str], setting: str, expected: str
) -> None:
    status, told, errors = call(capsys, "run", str(recipe), "--set", setting)
    assert status == 2
    assert expected in json.dumps(told["error"])
    assert "Traceback" not in errors
    assert not any(row["state"] in ("running", "done") for row in call(capsys, "runs")[1])


def test_a_diverging_run_fails_with_a_reason_and_keeps_the_untrained_draft(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told, _ = call(
        capsys, "run", str(recipe), "--set", "train.learning_rate=1e30", "--set", "train.warmup_fraction=0"
    )
    assert status == 2
    assert "learning_rate" in told["error"]["fix"]
    run = RunFolder.open(home(), call(capsys, "runs")[1][0]["run"])
    assert run.status()["state"] == "failed"
    assert (run.path / "draft" / "best" / "draft.json").exists()
