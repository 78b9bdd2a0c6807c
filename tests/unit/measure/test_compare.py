"""Two measured drafts: paired where they may be, and a plain no where they may not."""

import shutil

import pandas as pd
import pytest
import torch

from engine.errors import DraftbenchError
from engine.measure import certificate
from engine.measure.compare import compare, differences
from tests.conftest import tiny_llama
from tests.tiny_pair import captured, loaded, measured, noisy_copy, settings

torch.set_num_threads(1)
RATES = ["exact", "greedy_agreement", "per_proposed", "per_examined", "per_emitted", "tau"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`a`: a draft that is right partly. `b`: the target itself. Both measured on the same answers."""
    root = tmp_path_factory.mktemp("compare")
    target = loaded(tiny_llama())
    captures = {t: captured(root, target, temperature=t) for t in (0.0, 1.0)}
    spec = settings(speed_prompts=0)
    conditions = {}
    with pytest.MonkeyPatch.context() as patch:
        passed = certificate.Check("chi_square", True, 0, "", {})
        patch.setattr(certificate, "chi_square", lambda **_: passed)
        for name, model in {"a": noisy_copy(), "b": target.model}.items():
            result = measured(target, model, captures, spec)
            result.save(root / name)
            conditions[name] = result.summary["conditions"]
    return root, conditions


def compared(folders, **changes):
    root, conditions = folders
    return compare(root / "a", conditions["a"], root / "b", {**conditions["b"], **changes})


def row(result, metric, temperature=1.0):
    (found,) = [r for r in result["rows"] if r["metric"] == metric and r["temperature"] == temperature]
    return found


def trained(folder):
    table = pd.read_parquet(folder / "prompts.parquet")
    return table[table.draft == "trained"]


def edited(folders, tmp_path, name, edit):
    """A copy of both folders in which `edit` changed table `name` of b."""
    root, conditions = folders
    for side in "ab":
        shutil.copytree(root / side, tmp_path / side)
    path = tmp_path / "b" / f"{name}.parquet"
    edit(pd.read_parquet(path)).to_parquet(path, index=False)
    return tmp_path, conditions


def test_every_rate_at_every_temperature(folders):
    result = compared(folders)
    assert [(r["temperature"], r["metric"]) for r in result["rows"]] == [(t, m) for t in (0.0, 1.0) for m in RATES]
    assert result["differs"] == {}
    assert all(r["comparable"] and r["reason"] is None for r in result["rows"])
    assert all(r["difference"]["n_prompts"] == 6 for r in result["rows"])


def test_the_difference_is_b_less_a(folders):
    result, (root, _) = compared(folders), folders
    parts = {
        "exact": ("exact_sum", ["n_positions"]),
        "per_proposed": ("accepted", ["drafted"]),
        "per_examined": ("accepted", ["accepted", "rejected"]),
        "tau": ("emitted", ["rounds"]),
    }
    for metric, (top, bottom) in parts.items():
        found = row(result, metric)
        for side in "ab":
            table = trained(root / side).query("temperature == 1")
            assert found[side] == pytest.approx(table[top].sum() / table[bottom].sum().sum())
        assert found["difference"]["value"] == pytest.approx(found["b"] - found["a"])
        assert found["difference"]["low"] > 0  # the target itself is the better draft


def test_the_difference_is_paired_by_prompt_not_by_place(folders, tmp_path):
    whole = compared(folders)
    shuffled = compared(edited(folders, tmp_path, "prompts", lambda t: t.sample(frac=1, random_state=0)))
    for metric in RATES:
        assert row(shuffled, metric)["difference"] == pytest.approx(row(whole, metric)["difference"])


def test_a_draft_against_itself_differs_by_nothing(folders):
    root, conditions = folders
    result = compare(root / "a", conditions["a"], root / "a", conditions["a"])
    assert all(
        (r["difference"]["value"], r["difference"]["low"], r["difference"]["high"]) == (0, 0, 0) for r in result["rows"]
    )
    for counts in result["greedy_agreement"]:
        assert (counts["only_a"], counts["only_b"], counts["p_value"]) == (0, 0, 1)


def test_only_prompts_with_the_same_text_are_paired(folders, tmp_path):
    def other_answer(table):
        changed = (table.prompt_id == "q2") & (table.temperature == 1) & (table.position == 11)
        return table.assign(token_id=table.token_id.where(~changed, 3))

    result = compared(edited(folders, tmp_path, "positions", other_answer))
    assert row(result, "exact", 0.0)["difference"]["n_prompts"] == 6
    found = row(result, "exact")
    assert found["difference"]["n_prompts"] == 5
    table = trained(tmp_path / "a").query("temperature == 1 and prompt_id != 'q2'")
    assert found["a"] == pytest.approx(table.exact_sum.sum() / table.n_positions.sum())
    agreement = {c["temperature"]: c for c in result["greedy_agreement"]}
    counted = {t: sum(c[k] for k in ("both", "only_a", "only_b", "neither")) for t, c in agreement.items()}
    assert counted == {0.0: 72, 1.0: 60}


def test_a_shorter_answer_is_another_answer(folders, tmp_path):
    result = compared(edited(folders, tmp_path, "positions", lambda t: t[(t.prompt_id != "q0") | (t.position < 11)]))
    assert row(result, "exact")["difference"]["n_prompts"] == 5


def test_prompts_without_a_trace_count_for_the_exact_rates_only(folders, tmp_path):
    def untraced(table):
        sampled = ["rounds", "drafted", "accepted", "rejected", "discarded", "emitted"]
        table.loc[table.prompt_id.isin(["q0", "q1"]), sampled] = pd.NA
        return table

    result = compared(edited(folders, tmp_path, "prompts", untraced))
    assert row(result, "exact")["difference"]["n_prompts"] == 6
    assert row(result, "per_examined")["difference"]["n_prompts"] == 4


def test_nothing_in_common_is_an_error(folders, tmp_path):
    elsewhere = edited(folders, tmp_path, "positions", lambda t: t.assign(token_id=t.token_id + 1))
    with pytest.raises(DraftbenchError, match="no held-out answer in common") as refused:
        compared(elsewhere)
    assert "same target" in refused.value.fix


def test_one_temperature_in_common_is_compared_alone(folders, tmp_path):
    result = compared(edited(folders, tmp_path, "positions", lambda t: t[t.temperature == 1]))
    assert {r["temperature"] for r in result["rows"]} == {1.0}
    assert [c["temperature"] for c in result["greedy_agreement"]] == [1.0]


@pytest.mark.parametrize(("key", "value"), [("num_draft_tokens", 5), ("adaptive", True)])
def test_another_gamma_blocks_the_sampled_rates_only(folders, key, value):
    result = compared(folders, **{key: value})
    assert result["differs"] == {key: [folders[1]["a"][key], value]}
    for r in result["rows"]:
        exact = r["metric"] in ("exact", "greedy_agreement")
        assert r["comparable"] is exact
        assert r["reason"] == (None if exact else f"{key} differ")


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("top_p", 0.9), ("top_k", 50), ("device", "cuda")])
def test_other_conditions_block_every_rate(folders, key, value):
    result = compared(folders, **{key: value})
    assert not any(r["comparable"] for r in result["rows"])
    assert key in result["rows"][0]["reason"]


def test_what_does_not_change_a_rate_does_not_block_it(folders):
    assert all(r["comparable"] for r in compared(folders, heldout_hash="other", seed=9, threads=2)["rows"])
    assert differences({"dtype": "float32"}, {}) == {"dtype": ("float32", None)}


def test_greedy_agreement_is_counted_token_by_token(folders):
    result, (root, _) = compared(folders), folders
    for counts in result["greedy_agreement"]:
        agree = {}
        for side in "ab":
            table = pd.read_parquet(root / side / "positions.parquet")
            table = table[(table.draft == "trained") & (table.temperature == counts["temperature"])]
            agree[side] = table.set_index(["prompt_id", "position"]).agree.sort_index()
        a, b = agree["a"], agree["b"]
        found = (counts["both"], counts["only_a"], counts["only_b"], counts["neither"])
        assert found == ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
        assert counts["only_b"] > counts["only_a"]


@pytest.mark.parametrize("name", ["prompts.parquet", "positions.parquet"])
def test_a_damaged_table_is_an_error_that_names_it(folders, tmp_path, name):
    root, conditions = folders
    damaged = tmp_path / "a"
    shutil.copytree(root / "a", damaged)
    (damaged / name).write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(DraftbenchError, match=f"{name} cannot be read"):
        compare(damaged, conditions["a"], root / "b", conditions["b"])
    (damaged / name).unlink()
    with pytest.raises(DraftbenchError, match=f"{name} cannot be read"):
        compare(damaged, conditions["a"], root / "b", conditions["b"])
