"""Two measured drafts: paired where they may be compared, and a plain no where they may not."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from engine.errors import DraftbenchError
from engine.measure import certificate
from engine.measure import compare as comparisons
from engine.measure.compare import (
    Measurement,
    agreement_by_temperature,
    answer_hash,
    compare,
    differing_conditions,
    paired,
    prompt_sums,
    remedy,
    same_answers,
)
from engine.measure.definitions import RATES
from engine.records.certificate import Check
from engine.records.summary import Conditions
from tests.conftest import tiny_llama
from tests.tiny_pair import captured, loaded, measured, noisy_copy, settings

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`a`: a draft that is right partly. `b`: the target itself. Both measured on the same answers."""
    root = tmp_path_factory.mktemp("compare")
    target = loaded(tiny_llama())
    captures = {t: captured(root, target, temperature=t) for t in (0.0, 1.0)}
    spec = settings(speed_prompts=0)
    conditions = {}
    with pytest.MonkeyPatch.context() as patch:
        passed = Check(name="chi_square", passed=True)
        patch.setattr(certificate, "chi_square", lambda **_: passed)
        for name, model in {"a": noisy_copy(), "b": target.model}.items():
            result = measured(target, model, captures, spec)
            result.save(root / name)
            conditions[name] = result.summary.conditions
    return root, conditions


def compared(folders, **changes):
    root, conditions = folders
    a = Measurement.read(root / "a", conditions["a"])
    return compare(a, Measurement.read(root / "b", conditions["b"].model_copy(update=changes)))


def row(rows, metric, temperature=1.0):
    (match,) = [r for r in rows if r.metric == metric and r.temperature == temperature]
    return match


def trained(folder):
    table = pd.read_parquet(folder / "prompts.parquet")
    return table[table.draft == "trained"]


def edited(folders, tmp_path, name, edit):
    """A copy of both folders in which `edit` changed table `name` of b."""
    root, conditions = folders
    for side in "ab":
        shutil.copytree(root / side, tmp_path / side)  # which makes its parents
    path = tmp_path / "b" / f"{name}.parquet"
    edit(pd.read_parquet(path)).to_parquet(path, index=False)
    return tmp_path, conditions


@pytest.mark.slow
def test_every_rate_at_every_temperature(folders):
    rows = compared(folders)
    assert [(r.temperature, r.metric) for r in rows] == [(t, m) for t in (0.0, 1.0) for m in RATES]
    assert all(r.comparable and r.reason is None for r in rows)
    assert all(r.difference.n_prompts == 6 for r in rows)


def test_the_difference_is_b_less_a(folders):
    rows, (root, _) = compared(folders), folders
    parts = {
        "exact": ("exact_sum", ["n_positions"]),
        "per_proposed": ("accepted", ["drafted"]),
        "per_examined": ("accepted", ["accepted", "rejected"]),
        "tau": ("emitted", ["rounds"]),
    }
    for metric, (top, bottom) in parts.items():
        compared_rate = row(rows, metric)
        for side in "ab":
            table = trained(root / side).query("temperature == 1")
            assert getattr(compared_rate, side) == pytest.approx(table[top].sum() / table[bottom].sum().sum())
        assert compared_rate.difference.value == pytest.approx(compared_rate.b - compared_rate.a)
        assert compared_rate.difference.low > 0  # the target itself is the better draft


def test_the_difference_is_paired_by_prompt_not_by_place(folders, tmp_path):
    whole = compared(folders)
    shuffled = compared(edited(folders, tmp_path, "prompts", lambda t: t.sample(frac=1, random_state=0)))
    for metric in RATES:
        assert row(shuffled, metric).difference.as_dict() == pytest.approx(row(whole, metric).difference.as_dict())


def test_the_order_of_the_prompts_changes_no_interval():
    """The command read them from files and the page from the index, in other orders, and printed other intervals."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 60, 40)
    sides = [
        pd.DataFrame(
            {"n_positions": lengths, "answer": "same", "exact_sum": rng.uniform(0.1, 0.9, 40) * lengths},
            index=[f"p{i}" for i in range(40)],
        )
        for _ in "ab"
    ]
    other = rng.permutation(40)
    changes = [paired(*some, "exact").difference() for some in (sides, [side.iloc[other] for side in sides])]
    assert changes[0] == changes[1]


def test_a_draft_against_itself_differs_by_nothing(folders):
    root, conditions = folders
    a = Measurement.read(root / "a", conditions["a"])
    assert all((r.difference.value, r.difference.low, r.difference.high) == (0, 0, 0) for r in compare(a, a))
    for counts in agreement_by_temperature(root / "a", root / "a"):
        assert (counts["only_a"], counts["only_b"], counts["p_value"]) == (0, 0, 1)


def of_old_version(table):
    """`prompts.parquet` as it was before a measurement wrote a hash of each answer."""
    return table.drop(columns="answer")


def test_the_hash_of_an_answer_is_of_its_tokens_and_their_positions():
    assert answer_hash([0, 1], [5, 6]) == answer_hash(range(2), (5, 6))
    others = [
        answer_hash([0, 1], [6, 5]),
        answer_hash([0, 2], [5, 6]),
        answer_hash([0], [5]),
        answer_hash([0, 1], [5, 7]),
    ]
    assert len({answer_hash([0, 1], [5, 6]), *others}) == 5


def test_a_measurement_writes_the_hash_that_is_computed_of_an_older_one(folders, tmp_path):
    older, _ = edited(folders, tmp_path, "prompts", of_old_version)
    written, computed = prompt_sums(folders[0] / "b"), prompt_sums(older / "b")
    assert written.answer.notna().all()
    pd.testing.assert_frame_equal(written, computed[list(written.columns)])
    assert compared((older, folders[1])) == compared(folders)


def test_only_prompts_with_the_same_text_are_paired(folders, tmp_path):
    def other_answer(table):
        changed = (table.prompt_id == "q2") & (table.temperature == 1)
        return table.assign(answer=table.answer.where(~changed, "another"))

    edit = edited(folders, tmp_path, "prompts", other_answer)
    rows = compared(edit)
    assert row(rows, "exact", 0.0).difference.n_prompts == 6
    exact = row(rows, "exact")
    assert exact.difference.n_prompts == 5
    table = trained(tmp_path / "a").query("temperature == 1 and prompt_id != 'q2'")
    assert exact.a == pytest.approx(table.exact_sum.sum() / table.n_positions.sum())
    counts = {c["temperature"]: c for c in agreement_by_temperature(edit[0] / "a", edit[0] / "b")}
    counted = {t: sum(c[k] for k in ("both", "only_a", "only_b", "neither")) for t, c in counts.items()}
    assert counted == {0.0: 72, 1.0: 60}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(token_id=t.token_id.where((t.prompt_id != "q2") | (t.position < 11), 3)),
        lambda t: t[(t.prompt_id != "q2") | (t.position < 11)],
    ],
    ids=["another token", "a shorter answer"],
)
def test_other_tokens_of_an_older_measurement_are_another_answer(folders, tmp_path, change):
    edit = edited(
        edited(folders, tmp_path / "older", "prompts", of_old_version), tmp_path / "changed", "positions", change
    )
    assert row(compared(edit), "exact").difference.n_prompts == 5


def test_where_the_tokens_are_not_known_the_length_of_the_answer_decides():
    table = pd.DataFrame({"n_positions": [4, 5, 6], "answer": ["x", None, "z"]}, index=["p", "q", "r"])
    other = table.assign(n_positions=[4, 5, 7], answer=["x", "y", None])
    assert list(same_answers(table, other)[0].index) == ["p", "q"]
    assert list(same_answers(table, other.assign(answer=["w", "y", "z"]))[1].index) == ["q"]


def test_prompts_without_a_trace_count_for_the_exact_rates_only(folders, tmp_path):
    def untraced(table):
        sampled = ["rounds", "drafted", "accepted", "rejected", "discarded", "emitted"]
        table.loc[table.prompt_id.isin(["q0", "q1"]), sampled] = pd.NA
        return table

    rows = compared(edited(folders, tmp_path, "prompts", untraced))
    assert row(rows, "exact").difference.n_prompts == 6
    assert row(rows, "per_examined").difference.n_prompts == 4


def test_nothing_in_common_leaves_no_row(folders, tmp_path):
    elsewhere = edited(folders, tmp_path, "prompts", lambda t: t.assign(answer="another"))
    assert compared(elsewhere) == []
    a, b = (prompt_sums(elsewhere[0] / side).query("temperature == 1").set_index("prompt_id") for side in "ab")
    assert paired(a, b, "exact") is None


def test_one_temperature_in_common_is_compared_alone(folders, tmp_path):
    edit = edited(folders, tmp_path, "prompts", lambda t: t[t.temperature == 1])
    assert {r.temperature for r in compared(edit)} == {1.0}
    assert [c["temperature"] for c in agreement_by_temperature(edit[0] / "a", edit[0] / "b")] == [1.0]


@pytest.mark.parametrize(("asked", "taken"), [((150, 300), 300), ((150, 10**6), comparisons.MOST_SAMPLES)])
def test_the_interval_is_of_as_many_resamples_as_either_recipe_asks_for(folders, monkeypatch, asked, taken):
    root, conditions = folders
    samples = []
    monkeypatch.setattr(comparisons, "paired_difference", lambda *_, **options: samples.append(options["samples"]))
    compare(
        *(Measurement.read(root / n, conditions[n], count) for n, count in zip("ab", asked, strict=True)), ["exact"]
    )
    assert samples == [taken, taken]


def test_what_a_measurement_cannot_change_is_not_said_to_be_measured_again():
    assert remedy(["num_draft_tokens", "top_p"]) == (
        "`draftbench measure RUN --set measure.num_draft_tokens=VALUE --set measure.top_p=VALUE` measures a run again "
        "under equal conditions."
    )
    assert "measure." not in remedy(["dtype", "device"])
    assert "target.dtype and target.device" in remedy(["device", "dtype"])
    assert "measure.against=model" in remedy(["acceptance_rule", "served_by"])
    assert all(remedy([key]) for key in comparisons.MUST_MATCH)


@pytest.mark.parametrize(("key", "value"), [("num_draft_tokens", 5), ("adaptive", True), ("proposals", "argmax")])
def test_another_gamma_or_way_to_propose_blocks_the_sampled_rates_only(folders, key, value):
    a, b = folders[1]["a"], folders[1]["b"].model_copy(update={key: value})
    assert differing_conditions(a, b) == {key: (getattr(a, key), value)}
    for r in compared(folders, **{key: value}):
        exact = r.metric in ("exact", "argmax", "greedy_agreement")
        assert r.comparable is exact
        assert r.reason == (None if exact else f"{key} differ")


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("top_p", 0.9), ("top_k", 50), ("device", "cuda")])
def test_other_conditions_block_every_rate(folders, key, value):
    rows = compared(folders, **{key: value})
    assert not any(r.comparable for r in rows)
    assert key in rows[0].reason


def test_a_measurement_from_before_argmax_proposals_sampled_them():
    assert differing_conditions(Conditions(), Conditions(proposals="sampled")) == {}
    assert "proposals" in differing_conditions(Conditions(), Conditions(proposals="argmax"))


def test_what_does_not_change_a_rate_does_not_block_it(folders):
    assert all(r.comparable for r in compared(folders, heldout_hash="other", seed=9, threads=2))
    assert differing_conditions(Conditions(dtype="float32"), Conditions()) == {"dtype": ("float32", None)}


def test_greedy_agreement_is_counted_token_by_token(folders):
    root, _ = folders
    for counts in agreement_by_temperature(root / "a", root / "b"):
        agree = {}
        for side in "ab":
            table = pd.read_parquet(root / side / "positions.parquet")
            table = table[(table.draft == "trained") & (table.temperature == counts["temperature"])]
            agree[side] = table.set_index(["prompt_id", "position"]).agree.sort_index()
        a, b = agree["a"], agree["b"]
        counted = (counts["both"], counts["only_a"], counts["only_b"], counts["neither"])
        assert counted == ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
        assert counts["only_b"] > counts["only_a"]


@pytest.mark.parametrize("name", ["prompts.parquet", "positions.parquet"])
def test_a_damaged_table_is_an_error_that_names_it(folders, tmp_path, name):
    damaged = tmp_path / "a"
    shutil.copytree(folders[0] / "a", damaged)
    (damaged / name).write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(DraftbenchError, match=f"{name} cannot be read"):
        agreement_by_temperature(damaged, folders[0] / "b")
    (damaged / name).unlink()
    with pytest.raises(DraftbenchError, match=f"{name} cannot be read"):
        agreement_by_temperature(damaged, folders[0] / "b")
