"""`draftbench findings` on run folders that the test writes: text, JSON, Markdown, recipes, report, an empty home."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from engine.cli.app import main
from engine.config.reading import dump_recipe, parse_recipe
from engine.fileio import write_json
from engine.runs.samples import sample_folders

pytestmark = pytest.mark.slow

PROMPTS = 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path))
    return tmp_path


def add(
    root: Path,
    name: str,
    rate: float,
    *,
    tags: tuple[str, ...] = (),
    steps: int = 90,
    tokens: int = 9000,
    **changes: Any,
) -> None:
    """A finished run folder as a run leaves it, but for its weights."""
    folder = root / "runs" / name
    train = {
        "loss": changes.pop("loss", "forward_kl"),
        "mode": changes.pop("mode", "offline"),
        "seed": changes.pop("seed", 0),
    }
    n_train = changes.pop("n_train", 200)
    prompts = {
        "train": "train.jsonl",
        "heldout": "heldout.jsonl",
        "domain": changes.pop("domain", "biology"),
        "train_prompts": n_train,
    }
    recipe = parse_recipe({"name": name, "prompts": prompts, "train": train, "tags": list(tags)})
    (folder / "measure").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    at = "2026-01-01T00:00:00+00:00"
    write_json(folder / "status.json", {"state": "done", "phase": "", "created_at": at, "updated_at": at})
    write_json(folder / "training.json", {"steps_done": steps, "tokens_seen": tokens, "best_step": steps})
    write_json(
        folder / "provenance.json",
        {
            "command": ["draftbench", "run", "x.yaml"],
            "source": {"commit": "abc123", "changed": False},
            "target_fingerprint": "t",
            "target_dtype": "float32",
            "device": "cpu",
            "seeds": {"train": train["seed"]},
            "measurement": {"draft_sha256": f"sha-{name}"},
            "prompts": {"train": n_train, "train_hash": str(n_train), "heldout_hash": prompts["domain"]},
        },
    )
    write_json(
        folder / "measure" / "summary.json",
        {
            "certificate": {"passed": True},
            "conditions": {},
            "metrics": [
                {
                    "draft": "trained",
                    "temperature": 0.0,
                    "metric": "exact",
                    "value": rate,
                    "low": rate,
                    "high": rate,
                    "n_prompts": PROMPTS,
                },
            ],
        },
    )
    ease = np.random.default_rng(1).normal(0, 0.05, PROMPTS) + np.random.default_rng(zlib.crc32(name.encode())).normal(
        0, 0.005, PROMPTS
    )
    rows = [
        {
            "draft": draft,
            "temperature": 0.0,
            "prompt_id": f"p{i}",
            "group": None,
            "exact_sum": 50 * float(np.clip(value + ease[i], 0, 1)),
            "agree_sum": 0.0,
            "n_positions": 50,
            "drafted": 0,
            "accepted": 0,
            "rejected": 0,
            "discarded": 0,
            "emitted": 0,
            "rounds": 0,
            "text": "?",
        }
        for draft, value in (("trained", rate), ("initial", 0.1))
        for i in range(PROMPTS)
    ]
    pd.DataFrame(rows).to_parquet(folder / "measure" / "prompts.parquet")
    lines = [
        {"kind": "eval", "step": s, "temperature": 0.0, "exact": rate * s / steps, "tokens_seen": 100 * s, "seconds": s}
        for s in (0, steps)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def a_study(root: Path) -> None:
    for n, lift in ((50, 0.0), (200, 0.03)):
        for loss, rate in (("sft", 0.40), ("forward_kl", 0.42)):
            tags = ("study:mine",)
            add(root, f"{loss}-{n}", rate + lift, loss=loss, n_train=n, tags=tags, steps=n, tokens=10 * n)
            add(
                root,
                f"online-{loss}-{n}",
                rate - 0.04,
                loss=loss,
                n_train=n,
                mode="online",
                tags=tags,
                steps=n // 8,
                tokens=3 * n,
            )
    add(root, "stranger", 0.9, domain="law")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["findings", *arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_an_empty_home_says_what_to_type(root: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys)
    assert code == 0
    assert "no finished run" in out
    assert "draftbench run recipes/quickstart.yaml" in out
    code, out, _ = run(capsys, "--json")
    assert (code, json.loads(out)["runs_compared"]) == (0, 0)
    assert {claim["verdict"] for claim in json.loads(out)["claims"]} == {"not enough runs"}


def test_the_json_has_every_claim_with_ratio_interval_runs_and_verdict(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    code, out, _ = run(capsys, "--json")
    report = json.loads(out)
    claims = {claim["key"]: claim for claim in report["claims"]}
    assert code == 0
    numbers = [claim["number"] for claim in claims.values()]
    assert numbers == ["1", "2", "3", "4", "5a", "5b", "also", "6a", "6b"]  # no two claims have one number
    white = claims["white_box"]
    assert white["verdict"] == "same direction"
    assert white["paper_band"]["change"] == [0.02, 0.1]
    assert white["paper_band"]["meant"] == "relative or absolute: not stated"
    assert claims["synthetic"]["paper_band"]["meant"] == "relative"  # "80% to 93% of" is a ratio
    head = white["headline"]
    assert head["ratio"]["value"] == pytest.approx(1 + head["relative"]["value"])
    assert head["ratio"]["low"] < head["ratio"]["value"] < head["ratio"]["high"]
    assert head["absolute"]["value"] == pytest.approx(0.01, abs=0.02)
    assert (head["n_cells"], head["n_runs"], head["seeds"], head["n_prompts"]) == (4, 8, 1, PROMPTS)
    assert set(white["by_domain"]) == {"biology"}
    runs = {run["run"]: run for run in report["runs"]}
    for claim in claims.values():
        for cell in claim["cells"]:
            assert cell["runs"]
            assert cell["absolute"]["low"] <= cell["absolute"]["value"] <= cell["absolute"]["high"]
            assert set(cell["runs"]) <= runs.keys()
    assert runs["sft-200"]["commit"] == "abc123"
    assert runs["sft-200"]["draft_sha256"] == "sha-sft-200"
    assert runs["sft-200"]["seeds"] == {"train": 0}
    assert claims["generic"]["headline"] is None


def test_claims_on_modes_are_reported_at_every_effort(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    claim = next(c for c in json.loads(run(capsys, "--json")[1])["claims"] if c["key"] == "offline")
    assert claim["effort"] == "own schedule"
    assert [one["effort"] for one in claim["by_effort"]] == [
        "own schedule",
        "equal target tokens",
        "equal optimiser steps",
    ]
    assert [one["verdict"] for one in claim["by_effort"]] == ["same direction", "not enough runs", "not enough runs"]
    assert {cell["effort"] for cell in claim["cells"]} == {"own schedule"}
    assert "match: [tokens, steps]" in claim["would_decide"]["recipe"]


def test_a_study_is_looked_at_alone(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    every = json.loads(run(capsys, "--json")[1])
    assert (every["runs_compared"], every["samples"]) == (9, 0)
    report = json.loads(run(capsys, "--json", "--study", "mine")[1])
    assert (report["runs_compared"], report["study"]) == (8, "mine")
    code, out, err = run(capsys, "--study", "nothing")
    assert (code, out) == (2, "")
    assert "no measured run here belongs to a study 'nothing'" in err


def test_the_text_can_be_read_and_the_markdown_has_tables(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    _, out, _ = run(capsys)
    assert "3. White box beats black box: SAME DIRECTION" in out
    assert "equal target tokens" in out
    _, out, _ = run(capsys, "--markdown")
    assert out.count("\n## ") == 9
    assert "| 3 | White box beats black box | same direction | 0 | +" in out


def test_the_study_that_would_decide_is_printed_whole(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    recipe = yaml.safe_load(run(capsys, "--recipe", "white_box")[1])
    assert recipe["axes"]["seed"] == [1, 2]
    assert Path(recipe["base"]).is_file()
    code, _, err = run(capsys, "--recipe", "white_bux")
    assert (code, "white_box" in err) == (2, True)


def test_one_form_is_printed(root: Path, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "--json", "--markdown")[0] == 2


@pytest.mark.slow
def test_the_report_is_one_file_with_everything(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    a_study(root)
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")  # interactive figures, which take no seconds
    code, out, err = run(capsys, "--html", str(root / "deep" / "f.html"), "--study", "mine")
    assert (code, err) == (0, "")
    assert "f.html" in out
    text = (root / "deep" / "f.html").read_text(encoding="utf-8")
    for part in (
        "White box beats black box",
        "same direction",
        "sft-200",
        "abc123",
        "Runs and their origin",
        "equal target tokens",
    ):
        assert part in text
    assert "stranger" not in text
    assert text.count("<figure") >= 7


@pytest.mark.slow
def test_a_report_that_cannot_be_written_says_why(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    a_study(root)
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    (root / "folder.html").mkdir()
    code, _, err = run(capsys, "--html", str(root / "folder.html"))
    assert code == 2
    assert "folder.html" in err


def test_without_the_workbench_the_report_is_refused_in_words(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run(capsys, "--html", str(root / "f.html"))
    assert code == 2
    assert "draftbench[workbench]" in err
    assert not (root / "f.html").exists()


@pytest.mark.slow
def test_the_samples_from_the_command_line_decide_all_five_claims(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DRAFTBENCH_SAMPLES", raising=False)
    for expected in (len(sample_folders()), 0):
        with pytest.raises(SystemExit):
            main(["runs", "samples", "--json"])
        assert len(json.loads(capsys.readouterr().out)["added"]) == expected
    _, out, _ = run(capsys, "--json")
    report = json.loads(out)
    assert report["samples"] == report["runs_compared"] > 0
    claims = [claim for claim in report["claims"] if claim["of_paper"]]
    assert {claim["number"] for claim in claims} >= {"1", "2", "3", "4", "5a", "5b"}
    for claim in claims:
        assert claim["verdict"] != "not enough runs"
        assert claim["headline"]["absolute"]["low"] < claim["headline"]["absolute"]["high"]
        assert all((root / "runs" / run_id).is_dir() for cell in claim["cells"] for run_id in cell["runs"])


def test_an_unknown_study_is_reported_with_the_known_ones(root: Path, capsys: pytest.CaptureFixture[str]):
    a_study(root)
    code, _, err = run(capsys, "--study", "mien")
    assert code == 2
    assert "did you mean 'mine'" in err
    assert run(capsys, "--study", "mine")[0] == 0
