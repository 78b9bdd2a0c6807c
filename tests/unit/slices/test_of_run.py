"""Slices of runs on disk: of a run made now, with every column, and of shipped runs of an earlier version."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.errors import DraftbenchError
from engine.measure.compare import rate_interval
from engine.measure.definitions import RATES
from engine.runs.folder import RunFolder
from engine.runs.samples import SAMPLES, sample_folders
from engine.slices.kinds import KINDS
from engine.slices.of_run import origin_of, slices_against, slices_of_run
from engine.slices.tokens import BY, ENTROPIES, PAST_THE_END, POSITIONS, in_buckets, measured_tokens, order_of

pytestmark = pytest.mark.slow

FORWARD_KL, REVERSE_KL = "biology-forward-kl-20261122-101542-9142", "biology-reverse-kl-20261122-102213-d0a1"
CALLS = "function-calling-historical-20261122-150059-02bb"
NO_TOKENIZER = ("group", "category", "position", "prompt")


def shipped(run_id: str) -> RunFolder:
    return RunFolder(SAMPLES / run_id)


@pytest.fixture
def run(finished_home: Path) -> RunFolder:
    (folder,) = (path for path in (finished_home / "runs").iterdir() if path.is_dir())
    return RunFolder(folder)


def trained(run: RunFolder, name: str, temperature: float) -> pd.DataFrame:
    table = pd.read_parquet(run.path / "measure" / f"{name}.parquet")
    return table[(table.draft == "trained") & (table.temperature == temperature)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("by", ["kind", "position", "group", "context", "prompt", "category"])
def test_slices_add_up_to_the_rate_that_the_run_reports(run: RunFolder, rate: str, by: str):
    for temperature in (0.0, 1.0):
        result = slices_of_run(run, by=by, rate=rate, temperature=temperature).sliced
        reported = next(m for m in run.summary().of("trained", rate) if m.temperature == temperature)
        assert result.overall.value == pytest.approx(reported.value, abs=1e-6)
        assert result.overall.n_prompts == reported.n_prompts
        assert sum(item.n_tokens for item in result.slices) == result.n_tokens


@pytest.mark.parametrize("rate", ["exact", "tau"])
def test_the_whole_has_the_interval_that_show_prints(rate: str):
    """Of the same 60 prompts in another order it was 0.386 [0.362, 0.413], and in the measurement [0.359, 0.413]."""
    shown = shipped("serve-biology-20261122-183032-c638")
    overall = slices_of_run(shown, by="position", rate=rate, temperature=0.0).sliced.overall
    reported = next(m for m in shown.summary().of("trained", rate) if m.temperature == 0.0)
    assert (overall.low, overall.high) == pytest.approx((reported.low, reported.high), abs=1e-6)


@pytest.mark.parametrize("rate", ["per_proposed", "per_examined", "per_emitted", "tau"])
@pytest.mark.parametrize("name", [CALLS, "serve-biology-20261122-183032-c638"])
def test_counts_of_the_trace_by_token_are_those_of_the_prompts(name: str, rate: str):
    columns = [RATES[rate].numerator, *RATES[rate].denominator]
    for temperature in (0.0, 1.0):
        tokens = measured_tokens(origin_of(shipped(name)), rate, temperature, "position")
        expected = trained(shipped(name), "prompts", temperature).dropna(subset=["rounds"]).set_index("prompt_id")
        counted = tokens.groupby("prompt_id").sum(numeric_only=True).loc[expected.index]
        for column in set(columns):
            np.testing.assert_array_equal(counted[column], expected[column].astype(float))


def test_a_group_s_slice_is_the_rate_of_its_prompts():
    result = slices_of_run(shipped(CALLS), by="group", temperature=1.0).sliced
    prompts = trained(shipped(CALLS), "prompts", 1.0).set_index("prompt_id")
    for item in result.slices:
        interval, n_tokens = rate_interval(prompts[prompts.group == item.name], "exact")
        assert item.rate.value == pytest.approx(interval.value)
        assert item.n_tokens == n_tokens


def test_the_lowest_temperature_is_taken_if_none_is_named(run: RunFolder):
    assert slices_of_run(run, by="position").sliced.temperature == 0.0


def test_kinds_are_told_by_the_target_s_tokenizer(run: RunFolder):
    for rate in ("exact", "per_proposed"):
        names = {item.name for item in slices_of_run(run, rate=rate, temperature=1.0).sliced.slices}
        assert names <= {*KINDS, PAST_THE_END}
        assert len(names) > 1  # random bytes: at least letters and what is no character


def test_a_refused_token_is_in_the_slice_of_the_token_that_took_its_place(run: RunFolder):
    table = trained(run, "tokens", 1.0)
    kept = table[table.fate.isin(["accepted", "corrected", "bonus"])]
    by_place = kept.set_index(["prompt_id", "position"])
    assert not by_place.index.duplicated().any()  # one token of the answer at each place
    tokens = measured_tokens(origin_of(run), "per_examined", 1.0, "kind")
    refused = table.reset_index(drop=True).fate.eq("rejected").to_numpy()
    assert refused.any()
    assert (tokens.slice[refused] != PAST_THE_END).all()  # a corrected token stands there


def test_entropy_sorts_the_tokens_of_the_target_s_text(run: RunFolder):
    for temperature in (0.0, 1.0):
        result = slices_of_run(run, by="entropy", temperature=temperature).sliced
        stored = trained(run, "positions", temperature).entropy
        assert stored.between(0, np.log(258) + 1e-4).all()
        assert sum(item.n_tokens for item in result.slices) == len(stored)
        assert [item.name for item in result.in_order()] == order_of("entropy", [item.name for item in result.slices])


def test_the_context_of_a_token_is_its_prompt_and_the_answer_before_it(run: RunFolder):
    lengths = trained(run, "prompts", 0.0).set_index("prompt_id").prompt_tokens
    assert (lengths > 20).all()  # the chat template alone is longer
    positions = trained(run, "positions", 0.0)
    short = (positions.position + positions.prompt_id.map(lengths).astype(int)) < 128
    first = {item.name: item.n_tokens for item in slices_of_run(run, by="context").sliced.slices}
    assert first.get("0 to 127", 0) == int(short.sum())


def test_the_shipped_runs_have_positions_and_can_be_sliced_without_a_tokenizer():
    folders = sample_folders()
    assert len(folders) > 100
    assert all((folder / "measure" / "positions.parquet").is_file() for folder in folders)
    for folder in folders[::40]:
        for by in NO_TOKENIZER:
            assert slices_of_run(RunFolder(folder), by=by).sliced.slices


@pytest.mark.parametrize(("by", "what"), [("entropy", "the target's entropy"), ("context", "length of the prompts")])
def test_what_an_earlier_version_did_not_store_is_said(by: str, what: str):
    with pytest.raises(DraftbenchError, match=what) as refused:
        slices_of_run(shipped(CALLS), by=by)
    assert f"draftbench measure {CALLS}" in refused.value.fix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "colour"}, "slices by 'colour' are unknown"),
        ({"rate": "speed"}, "unknown rate 'speed'"),
        ({"temperature": 0.5}, "not measured at temperature 0.5"),
        ({"rate": "tau", "by": "entropy"}, "tau cannot be sliced by entropy"),
    ],
)
def test_what_cannot_be_sliced_is_refused(run: RunFolder, options: dict, message: str):
    with pytest.raises(DraftbenchError, match=message):
        slices_of_run(run, **options)


def test_at_temperature_0_the_rates_on_the_target_s_text_are_one(run: RunFolder):
    path = run.path / "measure" / "positions.parquet"
    pd.read_parquet(path).drop(columns="agree").to_parquet(path, index=False)
    agreed = slices_of_run(run, rate="greedy_agreement", by="position").sliced
    exact = slices_of_run(run, rate="exact", by="position").sliced
    assert [item.rate for item in agreed.slices] == [item.rate for item in exact.slices]
    with pytest.raises(DraftbenchError, match="no greedy_agreement"):
        slices_of_run(run, rate="greedy_agreement", by="position", temperature=1.0)


def test_a_run_without_a_trace_says_so(run: RunFolder):
    (run.path / "measure" / "tokens.parquet").unlink()
    with pytest.raises(DraftbenchError, match="no tau by token"):
        slices_of_run(run, rate="tau", by="position")


def test_a_token_whose_value_is_not_known_counts_as_no_position(run: RunFolder):
    path = run.path / "measure" / "positions.parquet"
    table = pd.read_parquet(path)
    table.loc[(table.draft == "trained") & (table.temperature == 1) & (table.position == 2), "agree"] = pd.NA
    table.to_parquet(path, index=False)
    known = trained(run, "positions", 1.0).agree.dropna()
    result = slices_of_run(run, rate="greedy_agreement", temperature=1.0).sliced
    assert result.n_tokens == len(known)
    assert result.overall.value == pytest.approx(known.astype(float).mean())


@pytest.mark.parametrize("column", ["prompt_id", "position", "token_id", "overlap"])
def test_a_table_without_a_column_or_with_words_in_it_is_an_error(run: RunFolder, column: str):
    path = run.path / "measure" / "positions.parquet"
    table = pd.read_parquet(path)
    table.drop(columns=column).to_parquet(path, index=False)
    with pytest.raises(DraftbenchError):
        slices_of_run(run, temperature=1.0)
    if column != "prompt_id":
        table.assign(**{column: "words"}).to_parquet(path, index=False)
        with pytest.raises(DraftbenchError):
            slices_of_run(run, temperature=1.0)


def test_damaged_tables_and_missing_measurements_are_errors(run: RunFolder):
    (run.path / "measure" / "positions.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(DraftbenchError, match="cannot be read"):
        slices_of_run(run, by="position")
    shutil.rmtree(run.path / "measure")
    with pytest.raises(DraftbenchError, match="has no measurement"):
        slices_of_run(run, by="position")


def test_answers_that_a_server_told_only_in_part_are_noted(run: RunFolder):
    summary = run.summary()
    conditions = summary.conditions.model_copy(update={"served_by": "m at http://127.0.0.1"})
    summary.model_copy(update={"conditions": conditions}).write(run.path)
    assert slices_of_run(run).notes == ()
    path = run.path / "measure" / "positions.parquet"
    table = pd.read_parquet(path)
    first = table.prompt_id == table.prompt_id.iloc[0]
    table[~(first & (table.position == 1))].to_parquet(path, index=False)
    (note,) = slices_of_run(run).notes
    assert note.startswith("of 1 answers only the tokens are measured")
    assert slices_of_run(run, by="position").notes == ()


def test_two_runs_differ_by_slice_as_they_do_as_a_whole():
    result = slices_against(shipped(FORWARD_KL), shipped(REVERSE_KL), by="position", temperature=1.0)
    assert result.sliced_b is not None
    assert result.n_paired == 40
    whole = result.sliced_b.overall.value - result.sliced.overall.value
    weighted = sum(row.difference.value * row.n_tokens for row in result.differences) / result.sliced.n_tokens
    assert weighted == pytest.approx(whole)
    assert sum(row.share_of_change for row in result.differences) == pytest.approx(1)


def test_runs_on_other_texts_or_under_other_conditions_are_not_subtracted(run: RunFolder):
    with pytest.raises(DraftbenchError, match="no held-out answer in common"):
        slices_against(shipped(FORWARD_KL), shipped(CALLS), by="position")
    other = RunFolder(shutil.copytree(run.path, run.path.with_name("other")))
    summary = other.summary()
    summary.model_copy(update={"conditions": summary.conditions.model_copy(update={"dtype": "bfloat16"})}).write(
        other.path
    )
    result = slices_against(run, other, by="position")
    assert result.blocked_by == {"dtype": ("float32", "bfloat16")}
    assert result.differences == ()


def test_buckets_have_every_value_once():
    values = pd.Series([0, 7, 8, 15, 16, 10**6])
    names = ["0 to 7", "0 to 7", "8 to 15", "8 to 15", "16 to 31", "from 8192"]
    assert in_buckets(values, POSITIONS).tolist() == names
    assert in_buckets(pd.Series([0.0, 0.1, 9.0, -1e-7]), ENTROPIES).tolist() == [
        *("0 to 0.1", "0.1 to 0.5", "from 6", "0 to 0.1"),  # of a certain token, the sum may end a little below zero
    ]
    assert order_of("position", ["from 8192", "8 to 15", "0 to 7"]) == ["0 to 7", "8 to 15", "from 8192"]


def test_every_way_to_slice_is_explained():
    assert all(BY.values())
