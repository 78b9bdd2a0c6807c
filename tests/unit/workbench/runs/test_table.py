"""The table of runs, and what a run's page reads from the folder: pure parts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.errors import DraftbenchError
from engine.paths import Home
from engine.records.status import PhaseProgress, Status
from engine.runs.folder import RunFolder
from engine.runs.process import now, process_identity
from workbench.run import export_job, files, log, origin, training_curve
from workbench.run import stage as stages
from workbench.runs import rows, table
from workbench.runs.table import Filters

COLUMNS = (
    "run_id",
    "title",
    "label",
    "state",
    "tags",
    "notes",
    "domain",
    "scenario",
    "mode",
    "supervision",
    "loss",
    "target",
    "seed",
    "exact",
    "exact_low",
    "exact_high",
    "initial",
    "n_prompts",
    "temperature",
    "speedup",
    "speedup_low",
    "speedup_high",
    "certificate",
    "pinned",
    "baseline",
    "archived",
    "sample",
    "created_at",
    "problems",
)


def overview(*rows: dict[str, Any]) -> pd.DataFrame:
    """An overview as the index gives it: arrays for lists, NaN for what is not known."""
    made = []
    for place, row in enumerate(rows):
        base: dict[str, Any] = dict.fromkeys(COLUMNS)
        base |= {"run_id": f"r{place}", "state": "done", "domain": "biology", "scenario": "curated", "mode": "offline"}
        base |= {
            "loss": "forward_kl",
            "target": "t",
            "tags": np.array([], dtype=object),
            "pinned": False,
            "baseline": False,
        }
        base |= {
            "archived": False,
            "sample": False,
            "created_at": pd.Timestamp(2026, 1, 1) + pd.Timedelta(days=place),
            "seed": 0,
            "problems": None,
            **row,
        }
        made.append({**base, "label": base["title"] or base["run_id"]})
    frame = pd.DataFrame(made, columns=list(COLUMNS))
    numbers = ["exact", "exact_low", "exact_high", "initial", "n_prompts", "speedup", "speedup_low", "speedup_high"]
    frame[numbers] = frame[numbers].astype(float)
    return table.prepared(frame)


ALL_DIFFER = pd.Series(dtype=str)  # no two runs are known to be equal but for the seed


def ids(frame: pd.DataFrame) -> list[str]:
    return list(frame.run_id)


def test_each_word_of_a_search_must_occur_somewhere_in_any_case():
    runs = overview({"title": "Long Warm-up"}, {"notes": "warm start\nof a LONG run"}, {"tags": np.array(["long"])}, {})
    assert ids(table.matching(runs, Filters(text="long WARM"))) == ["r0", "r1"]
    assert ids(table.matching(runs, Filters(text="long"))) == ["r0", "r1", "r2"]
    assert ids(table.matching(runs, Filters(text="r3"))) == ["r3"]
    assert ids(table.matching(runs, Filters(text=".*"))) == []  # no pattern, just text


def test_filters_narrow_together_and_archived_runs_are_hidden_unless_asked_for():
    runs = overview(
        {"loss": "tvd"},
        {"loss": "tvd", "archived": True},
        {"loss": "sft", "domain": None},
        {"tags": np.array(["a", "b"])},
    )
    assert ids(table.matching(runs, Filters())) == ["r0", "r2", "r3"]
    assert ids(table.matching(runs, Filters(archived="shown"))) == ["r0", "r1", "r2", "r3"]
    assert ids(table.matching(runs, Filters(archived="only"))) == ["r1"]
    assert ids(table.matching(runs, Filters(values=(("loss", ("tvd", "sft")), ("domain", ("biology",)))))) == ["r0"]
    assert ids(table.matching(runs, Filters(values=(("domain", (table.UNKNOWN,)),)))) == ["r2"]
    assert ids(table.matching(runs, Filters(tags=("b", "c")))) == ["r3"]


def test_pinned_runs_come_first_and_unmeasured_ones_last():
    runs = overview({"exact": 0.2}, {"exact": None}, {"exact": 0.4}, {"exact": 0.1, "pinned": True})
    assert ids(table.ordered(runs, "exact acceptance")) == ["r3", "r2", "r0", "r1"]
    assert ids(table.ordered(runs, "oldest")) == ["r3", "r0", "r1", "r2"]


def test_names_are_ordered_without_regard_to_case():
    runs = overview({"title": "beta"}, {"title": "Alpha"}, {"title": "alpha 2"})
    assert ids(table.ordered(runs, "name")) == ["r1", "r2", "r0"]


def test_a_group_is_summed_up_by_count_and_its_best_measured_run():
    runs = overview(
        {"loss": "tvd", "exact": 0.2, "exact_low": 0.1, "exact_high": 0.3, "n_prompts": 40},
        {
            "loss": "tvd",
            "exact": 0.4,
            "exact_low": 0.35,
            "exact_high": 0.45,
            "n_prompts": 12,
            "seed": 1,
            "title": "best",
        },
        {"loss": "sft"},
    )
    summary = table.group_summary(runs, "loss", ALL_DIFFER).set_index("group")
    assert summary.loc["tvd", ["runs", "measured", "seeds", "n", "best"]].tolist() == [2, 2, 2, 12, "best"]
    assert summary.loc["tvd", "interval"] == "[0.350, 0.450]"
    assert summary.loc["sft", "measured"] == 0
    assert pd.isna(summary.loc["sft", "exact"])


def test_a_standard_error_is_over_seeds_alone_and_else_the_range_stands_there():
    rates = list(enumerate((0.27, 0.31, 0.36)))
    runs = overview(*({"loss": loss, "exact": exact, "seed": seed} for loss in ("tvd", "sft") for seed, exact in rates))
    recipes = pd.Series({"r0": "a", "r1": "a", "r2": "a", "r3": "b", "r4": "b", "r5": "c"})
    summary = table.group_summary(runs, "loss", recipes).set_index("group")
    assert summary.loc["tvd", "error"] == pytest.approx(np.std([0.27, 0.31, 0.36], ddof=1) / 3**0.5)
    assert pd.isna(summary.loc["tvd", "range"])
    assert pd.isna(summary.loc["sft", "error"])
    assert summary.loc["sft", "range"] == "0.270–0.360 over 2 different settings"
    assert "standard error over seeds" in table.groups_for_paper(summary.reset_index())


def test_a_repetition_is_no_further_seed():
    seeds = overview(*({"exact": exact, "seed": seed} for seed, exact in ((0, 0.3), (0, 0.4), (1, 0.5))))
    (row,) = table.group_summary(seeds, "loss", pd.Series("a", index=["r0", "r1", "r2"])).itertuples()
    assert (row.runs, row.measured, row.seeds) == (3, 2, 2), "n is that of the mean"
    assert (row.mean, row.error) == pytest.approx((0.45, 0.05)), "of the two of seed 0 the newest counts"
    alone = table.group_summary(seeds[:2], "loss", pd.Series("a", index=["r0", "r1"])).iloc[0]
    assert pd.isna(alone.error)


def test_a_group_of_several_domains_has_a_row_for_each():
    runs = overview({"exact": 0.2}, {"exact": 0.9, "domain": "chinese"}, {"exact": 0.3})
    summary = table.group_summary(runs, "loss", ALL_DIFFER)
    assert list(zip(summary.group, summary.domain, summary.exact, strict=True)) == [
        ("forward_kl", "biology", 0.3),
        ("forward_kl", "chinese", 0.9),
    ]


def test_a_group_of_several_temperatures_has_a_row_for_each():
    """A mean over T = 0 and T = 1 is none of anything, and nothing said that it was one."""
    at = [
        {"exact": 0.2, "temperature": 0.0},
        {"exact": 0.6, "temperature": 1.0},
        {},
        {"exact": 0.4, "temperature": 0.0},
    ]
    summary = table.group_summary(overview(*at), "loss", ALL_DIFFER)
    assert summary[["temperature", "runs", "measured"]].to_numpy().tolist() == [[0.0, 3, 2], [1.0, 1, 1]]
    assert summary["mean"].tolist() == pytest.approx([0.3, 0.6])
    line = rows._line("forward_kl", summary).replace("\\", "")
    assert "biology, T = 0: 0.300" in line
    assert "biology, T = 1: 0.600 (n = 1 run" in line
    nothing = table.group_summary(overview({}, {}), "loss", ALL_DIFFER).iloc[0]
    assert (nothing.runs, nothing.measured) == (2, 0)


def test_a_method_is_named_by_mode_and_loss():
    runs = overview(
        {}, {"mode": "online"}, {"mode": "on_policy", "loss": "jsd(beta=0.1)"}, {"mode": None, "loss": None}
    )
    assert list(runs.method) == ["forward_kl", "online forward_kl", "on-policy jsd(beta=0.1)", "–"]
    cells = table.cells(overview({"mode": "online", "supervision": "black_box"}, {}))
    assert list(cells.supervision) == ["black box", "–"]
    assert list(table.cells(overview({"mode": "on_policy"}))["mode"]) == ["on-policy"]


def test_a_run_with_two_tags_is_in_both_groups_and_once_in_the_table():
    runs = overview({"tags": np.array(["a", "b"])}, {"tags": np.array(["b"])}, {})
    summary = table.group_summary(runs, "tag", ALL_DIFFER)
    assert dict(zip(summary.group, summary.runs, strict=True)) == {"a": 1, "b": 2, table.UNKNOWN: 1}
    assert ids(table.in_group(runs, "tag", "b")) == ["r0", "r1"]
    assert sorted(ids(table.ordered(runs, "newest", "tag"))) == ["r0", "r1", "r2"]


def test_cells_tell_state_in_a_word_and_a_mark_and_the_gain_over_the_untrained_draft():
    runs = overview(
        {"state": "interrupted", "exact": 0.3, "initial": 0.1, "certificate": False, "baseline": True, "pinned": True}
    )
    row = table.cells(runs).iloc[0]
    assert row.state == "↯ interrupted"
    assert row.gain == pytest.approx(0.2)
    assert row.certificate == "✕ failed"
    assert row.marks == "★ baseline, ● pinned"
    assert row.open == "Open"


def test_markup_in_labels_stays_what_was_typed():
    row = table.cells(overview({"title": "<img src=x onerror=alert(1)>", "notes": "a\n<b>"})).iloc[0]
    assert (row.label, row.notes) == ("<img src=x onerror=alert(1)>", "a <b>")


def test_every_state_has_a_mark():
    from workbench.shared.ui import STATES

    assert set(table.GLYPHS) == set(STATES)
    assert len(set(table.GLYPHS.values())) == len(STATES)


def test_csv_holds_every_column_and_no_lists():
    frame = table.for_csv(overview({"tags": np.array(["a", "b"]), "problems": np.array(["x: gone"])}))
    assert list(frame.columns) == list(table.CSV_COLUMNS)
    assert frame.tags[0] == "a; b"
    assert frame.problems[0] == "x: gone"


def test_a_folder_without_a_recipe_is_listed_as_damaged(tmp_path: Path):
    home = Home(tmp_path)
    (home.runs / "lost").mkdir(parents=True)
    runs = table.prepared(table.with_unindexed(overview({}), home))
    lost = runs[runs.run_id == "lost"].iloc[0]
    assert (lost.state, lost.archived, lost.domain) == ("damaged", False, table.UNKNOWN)
    assert "config.yaml" in lost.problems[0]
    assert len(table.cells(table.ordered(table.matching(runs, Filters()), "newest"))) == 2


def test_a_thousand_runs_are_filtered_ordered_and_written_in_a_blink():
    rows = [
        {"run_id": f"r{i}", "exact": i / 1000, "tags": np.array([f"t{i % 7}"]), "notes": "words " * 20}
        for i in range(1000)
    ]
    runs = overview(*rows)
    began = process_time()
    shown = table.ordered(table.matching(runs, Filters(text="words t3")), "gain", "tag")
    table.cells(shown)
    table.group_summary(runs, "tag", ALL_DIFFER)
    assert len(shown) == len([i for i in range(1000) if i % 7 == 3])
    assert process_time() - began < 1


# --- what a run's page reads from the folder ---


def event(step: int, **more: Any) -> str:
    return json.dumps(
        {"kind": "train", "step": step, "loss": 1 / step, "tokens_seen": step * 100, "seconds": step * 2.0, **more}
    )


def test_only_whole_new_lines_are_read_and_a_torn_one_is_taken_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    tail = training_curve.EventTail(path)
    assert tail.points() == []
    path.write_text(event(1) + "\n" + event(2)[:9])
    assert [p.step for p in tail.points()] == [1]
    with open(path, "a") as file:
        file.write(event(2)[9:] + "\n")
    assert [p.step for p in tail.points()] == [1, 2]
    with open(path, "r+b") as file:  # what was read before is not read again
        file.write(b"#" * len(event(1)))
    with open(path, "a") as file:
        file.write(event(3) + "\n")
    assert [p.step for p in tail.points()] == [1, 2, 3]
    path.write_text(event(7) + "\n")
    assert [p.step for p in tail.points()] == [7]


def test_steps_that_were_done_again_after_a_resume_count_once(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    lines = [event(1), event(2), event(3), '{"kind": "started"}', '{"kind": "resumed", "step": 1}', event(2, loss=9.0)]
    path.write_text("\n".join(lines) + "\n")
    assert [(p.step, p.value) for p in training_curve.EventTail(path).points()] == [(1, 1.0), (2, 9.0)]


def test_newest_values_and_time_left(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_text(
        "\n".join(
            [event(i) for i in range(1, 31)] + ['{"kind": "eval", "step": 30, "temperature": 0.0, "exact": 0.25}', ""]
        )
    )
    present = training_curve.newest(training_curve.EventTail(path).points())
    assert (present.step, present.loss, present.acceptance, present.evaluated_at) == (30, 1 / 30, ((0.0, 0.25),), 30)
    assert (present.tokens_per_s, present.s_per_step) == (50.0, 2.0)
    status = Status(progress=PhaseProgress(phase="train", done=30, total=100, unit="steps", phase_s=1.0))
    assert stages.stage(status, present) == stages.Stage(0.3, "train: 30 of 100 steps", 140.0)


@pytest.mark.parametrize(
    "progress", [None, 3, {}, {"done": "x", "total": []}, {"done": 1, "total": 0}, {"done": True, "total": None}]
)
def test_a_senseless_progress_is_no_progress(progress: Any):
    assert stages.stage(Status.parse({"progress": progress})[0], training_curve.Now()).share is None


@pytest.mark.slow
def test_a_long_curve_is_thinned_to_its_shape_and_keeps_its_end(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(event(i) + "\n" for i in range(1, 5002)))
    frame = training_curve.curve_frame("r", training_curve.EventTail(path).points(), most=500)
    assert len(frame) <= 502
    assert (frame.step.iloc[0], frame.step.iloc[-1]) == (1, 5001)


def test_a_bar_shows_its_last_state_and_control_characters_do_not_show():
    assert log.clean_line("\rtrain:  1%\rtrain: 50%\r") == "train: 50%"
    assert log.clean_line("\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07end") == "red end"
    assert log.clean_line("a\tb‮c\x00") == "a\tbc"
    assert log.clean_line("<script>") == "<script>"


@pytest.mark.slow
def test_a_log_is_searched_and_cut_to_its_end(tmp_path: Path):
    path = tmp_path / "log.txt"
    assert log.log_part(path, 5) == log.LogPart("", 0, 0, False)
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(100)) + b"\xff broken \n")
    assert log.log_part(path, 2).text == "line 99\n\ufffd broken "
    found = log.log_part(path, 3, "LINE 1")
    assert (found.text, found.shown, found.matching) == ("line 17\nline 18\nline 19", 3, 11)
    path.write_text("".join(f"line {i}\n" for i in range(200_000)))
    assert log.log_part(path, 1).cut
    assert log.log_part(path, 1).text == "line 199999"


def test_weights_and_files_are_listed_with_sizes_and_links_are_left_out(tmp_path: Path):
    (tmp_path / "checkpoints" / "step-00000021").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000021" / "draft.safetensors").write_bytes(b"x" * 2_000_000)
    (tmp_path / "draft" / "best").mkdir(parents=True)
    (tmp_path / "outside").symlink_to("/etc/passwd")
    (tmp_path / ".lock").touch()
    weights = files.weights(tmp_path, 21)
    assert weights[["step", "megabytes"]].values.tolist() == [[21, 2.0], [21, 0.0]]
    assert list(files.all_files(tmp_path).file) == ["checkpoints/step-00000021/draft.safetensors"]


def test_nested_provenance_becomes_rows():
    assert origin.flat({"a": {"b": 1}, "c": ["x", 2], "d": [{"e": None}], "f": 308.6401523680033}) == [
        ("a.b", "1"),
        ("c", "x 2"),
        ("d[0].e", ""),
        ("f", "308.64"),
    ]


# --- export ---


def exporting(run: RunFolder, *, alive: bool, report: str) -> None:
    process = process_identity() if alive else {"pid": os.getpid(), "pid_started": 1.0}
    (run.path / export_job.Started.FILE).write_text(json.dumps({"out": "/o", "started_at": now(), **process}))
    (run.path / export_job.Report.FILE).write_text(report)
    (run.path / export_job.OUTPUT).write_text("Error: no room\n")


@pytest.mark.parametrize(
    ("alive", "report", "state"),
    [
        (True, "", "running"),
        (False, "", "failed"),
        (False, '{"ok": tr', "failed"),
        (False, '{"ok": true}', "done"),
        (False, '{"ok": false}', "differs"),
    ],
)
def test_an_export_is_judged_by_what_its_process_left(tmp_path: Path, alive: bool, report: str, state: str):
    exporting(RunFolder(tmp_path), alive=alive, report=report)
    assert export_job.read(RunFolder(tmp_path)).state == state


def test_an_export_waits_for_the_run_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_job, "start_detached", lambda *_: pytest.fail("an export was started"))
    home = Home(tmp_path)
    run, other = RunFolder(home.runs / "r"), RunFolder(home.runs / "busy")
    for folder in (run, other):
        folder.path.mkdir(parents=True)
    with other.working(), pytest.raises(DraftbenchError, match="run busy is in progress") as refused:
        export_job.start(home, run, "vllm", "exports/r", overwrite=False, check=True)
    assert refused.value.fix
    assert export_job.read(run).state == "none"


def test_an_export_starts_once_and_never_among_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, started = Home(tmp_path), []

    class Process:
        pid = os.getpid()

        def wait(self) -> None: ...

    monkeypatch.setattr(
        export_job, "start_detached", lambda home, command, report, output: started.append(command) or Process()
    )
    run = RunFolder(home.runs / "r")
    run.path.mkdir(parents=True)
    for folder in ("", "  ", "runs/r/draft", str(home.runs), "exports/../runs/x"):
        with pytest.raises(DraftbenchError):
            export_job.start(home, run, "vllm", folder, overwrite=False, check=True)
    export_job.start(home, run, "vllm", "exports/r", overwrite=True, check=False)
    with pytest.raises(DraftbenchError, match="already"):
        export_job.start(home, run, "vllm", "elsewhere", overwrite=False, check=True)
    assert len(started) == 1
    assert started[0][-9:] == [
        "export",
        "r",
        "--out",
        str(tmp_path / "exports" / "r"),
        "--json",
        "--for",
        "vllm",
        "--overwrite",
        "--no-check",
    ]
