"""Cells of a study and their names, equal tokens and steps, and what makes two cells one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config import identity as identities
from engine.config.identity import identity, project_path
from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT, home
from engine.study.cells import Cells, expand, only
from engine.study.spec import dump_study, load_study
from engine.study.start import study
from tests.unit.study.studies import ONLINE, STUDIES, Written, by_name, cells_of, names, run_of

# --- the recipe and its cells


def test_a_study_is_the_product_of_its_axes_named_by_them(written: Written):
    cells = cells_of(written(axes={"loss": ["forward_kl", "sft"], "queries": [5, 20], "seed": [0]}))
    assert names(cells) == ["s-forward-kl-20", "s-sft-20", "s-forward-kl-5", "s-sft-5"]
    first = cells.cells[0].recipe
    assert (first.train.loss[0].name, first.prompts.train_prompts, first.train.batch_size) == ("forward_kl", 20, 4)
    assert first.tags == ["study:s"]
    assert names(cells_of(written(axes={"loss": ["sft"], "seed": [0, 3]}))) == ["s-sft-seed0", "s-sft-seed3"]


def test_labels_fill_the_values_and_set_several_keys(written: Written):
    axes = {
        "scenario": {
            name: {"prompts.scenario": scenario, "prompts.train": "{scenario}.jsonl", "prompts.domain": "x-{domain}"}
            for name, scenario in (("a", "historical"), ("b", "synthetic"))
        },
        "domain": {"d1": {}, "d_2": None},
    }
    cells = cells_of(written(axes=axes))
    assert sorted(names(cells)) == ["s-d-2-a", "s-d-2-b", "s-d1-a", "s-d1-b"]
    recipe = by_name(cells)["s-d-2-b"].recipe
    assert (Path(recipe.prompts.train[0].path).name, recipe.prompts.domain) == ("b.jsonl", "x-d_2")
    prompts = [cell.recipe.prompts.train[0].path for cell in cells.cells]
    assert prompts == sorted(prompts)  # those that share a capture stand together


def test_an_axis_may_be_named_like_a_key(written: Written):
    cells = cells_of(written(axes={"train.learning_rate": [0.001, 0.002]}))
    assert [cell.recipe.train.learning_rate for cell in cells.cells] == [0.001, 0.002]


def test_grids_are_a_union_of_products_and_equal_cells_are_one(written: Written):
    axes = {"loss": ["forward_kl", "sft", "tvd"], "queries": [5, 20]}
    grids = [{"queries": 20}, {"loss": ["sft"]}]
    assert names(cells_of(written(axes=axes, grids=grids))) == ["s-forward-kl-20", "s-sft-20", "s-tvd-20", "s-sft-5"]


def test_a_run_can_be_the_base_of_another_study(written: Written, no_worker: None):
    path = written()
    run = run_of(cells_of(path).cells[0].recipe, "done")
    axes = {"loss": ["forward_kl", "tvd"]}
    cells = cells_of(written(name="next", base=str(run.path / "config.yaml"), axes=axes))
    assert [cell.recipe.tags for cell in cells.cells] == [["study:next"]] * 2
    assert {one.state for one in study(home(), load_study(path)).placed} == {"done", "to do"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axes": {"los": ["sft"]}}, "did you mean 'loss'"),
        ({"axes": {"loss": []}}, "axis 'loss' has no values"),
        ({"grids": [{"los": "sft"}]}, "did you mean 'loss'"),
        ({"grids": [{"loss": "stf"}]}, "did you mean 'sft'"),
        ({"axes": {"loss": {"x": {"train.epoch": 2}}}}, "cell loss x: .*train.epoch"),
        ({"axes": {"seed": [-1]}}, "cell seed -1"),
        ({"axes": {"draft.layers": [2, [2]]}}, "two values called '2'"),
        ({"match": ["time"]}, "match"),
        ({"nmae": "x"}, "nmae"),
        ({"name": "../up"}, "name"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
        ({"set": {"prompts.train": "gone.jsonl"}}, "gone.jsonl"),
    ],
)
def test_what_is_not_valid_is_named(written: Written, changes: dict[str, Any], reason: str):
    with pytest.raises(DraftbenchError, match=reason):
        cells_of(written(**changes))


def test_a_recipe_of_a_run_is_no_study():
    with pytest.raises(DraftbenchError, match="is not a study"):
        load_study(PROJECT_ROOT / "recipes" / "smoke.yaml")


def test_settings_of_the_command_line_lie_below_the_axes(written: Written):
    cells = cells_of(written(set={"train.epochs": 2}), "train.epochs=4", "train.loss=tvd", "name=other")
    assert names(cells) == ["other-forward-kl", "other-sft"]
    assert {cell.recipe.train.epochs for cell in cells.cells} == {4}
    with pytest.raises(DraftbenchError, match="not key=value"):
        cells_of(written(), "train.epochs")


def test_only_keeps_the_cells_of_a_label(written: Written):
    cells = cells_of(written(axes={"loss": ["forward_kl", "sft", "tvd"], "queries": [5, 20]}))
    assert names(only(cells, ["loss=sft,tvd", "queries=5"])) == ["s-sft-5", "s-tvd-5"]
    for wrong, reason in (("loss=stf", "'sft'"), ("los=sft", "'loss'"), ("loss", "axis=value")):
        with pytest.raises(DraftbenchError) as refused:
            only(cells, [wrong])
        assert reason in str(refused.value)


def test_names_stay_names_of_runs_and_apart_however_long(written: Written):
    axes = {"domain": ["x" * 80 + str(i) for i in range(3)], "loss": ["sft", [{"name": "jsd", "beta": 0.1}]]}
    made = names(cells_of(written(name="s" * 48, axes=axes)))
    assert len(set(made)) == 6
    for name in made:
        assert home().run(f"{name}-20260101-000000-abcd")


def test_the_kept_copy_makes_the_same_cells_from_anywhere(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "base.yaml").write_text("prompts: {train: a.jsonl, heldout: held.jsonl}")
    spec = load_study(written(base="base.yaml"))
    before = expand(spec, home())
    (tmp_path / "base.yaml").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "copy.yaml").write_text(dump_study(spec))
    assert expand(load_study(tmp_path / "elsewhere" / "copy.yaml"), home()) == before


# --- equal tokens, equal steps


def matched(written: Written, **changes: Any) -> Cells:
    axes = {"loss": ["sft"], "mode": {"offline": {"train.epochs": 3}, "online": {**ONLINE, **changes}}}
    return cells_of(written(axes=axes, match=["tokens", "steps"]))


def test_an_online_cell_is_matched_in_tokens_and_in_steps(written: Written):
    cells = matched(written, **{"train.online.update_interval": 2})
    found = by_name(cells)
    assert sorted(found) == ["s-online-sft", "s-sft", "s-sft-equal-steps", "s-sft-equal-tokens"]
    tokens, steps = (found[f"s-sft-equal-{what}"].recipe.train for what in ("tokens", "steps"))
    assert (tokens.epochs, tokens.max_steps, tokens.mode, tokens.batch_size) == (1, None, "offline", 4)
    assert (steps.epochs, steps.max_steps, steps.mode, steps.batch_size) == (3, 10, "offline", 4)
    keys = {cell.key: cell.name for cell in cells.cells}
    assert [(pair.equal, keys[pair.offline]) for pair in cells.pairs] == [
        ("tokens", "s-sft-equal-tokens"),
        ("steps", "s-sft-equal-steps"),
        ("own schedule", "s-sft"),
    ]


@pytest.mark.parametrize(
    ("interval", "epochs", "offline"),
    [
        (4, 3.0, {"s-sft": 15, "s-sft-equal-tokens": 5}),  # 5 updates are the steps of one epoch: one cell for both
        (1, 3.0, {"s-sft": 15, "s-sft-equal-tokens": 5, "s-sft-equal-steps": 20}),  # more steps than three epochs have
    ],
)
def test_cells_matched_to_the_same_are_made_once(
    written: Written, interval: int, epochs: float, offline: dict[str, int]
):
    from engine.distill.schedule import total_steps

    cells = matched(written, **{"train.online.update_interval": interval})
    found = {c.name: total_steps(20, c.recipe.train) for c in cells.cells if c.recipe.train.mode == "offline"}
    assert found == offline
    assert len(cells.pairs) == 3


def test_an_on_policy_cell_has_the_steps_and_tokens_of_its_offline_one(written: Written):
    axes = {"loss": ["forward_kl"], "mode": {"offline": {}, "on_policy": {"train.mode": "on_policy"}}}
    cells = cells_of(written(axes=axes, match=["tokens", "steps"]))
    assert names(cells) == ["s-forward-kl", "s-on-policy-forward-kl"]
    assert [pair.equal for pair in cells.pairs] == ["tokens", "steps", "own schedule"]


def test_a_match_needs_an_offline_mode_and_a_number_of_queries(written: Written):
    with pytest.raises(DraftbenchError, match="no offline mode"):
        cells_of(written(axes={"mode": {"online": ONLINE}}, match=["tokens"]))
    with pytest.raises(DraftbenchError, match="how many steps"):
        cells_of(
            written(
                axes={"mode": {"offline": {}, "online": {**ONLINE, "prompts.train_prompts": None}}}, match=["steps"]
            )
        )


# --- what makes two cells one


def test_what_changes_no_exact_rate_is_no_part_of_the_identity():
    values = {"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}}
    first = identity(parse_recipe(values))
    same = [
        {"name": "x", "tags": ["t"], "notes": "n"},
        {"measure": {"speed_prompts": 0, "trace_prompts": 3, "certificate_tokens": 4, "bootstrap_samples": 100}},
        {"measure": {"num_draft_tokens": 5, "adaptive": True}},
        {"capture": {"batch_size": 3}},
        {"train": {"checkpoint_every": 3, "micro_batch_tokens": 100}},
        {"train": {"online": {"update_interval": 2}, "on_policy": {"share": 1.0}}},
    ]
    other = [
        {"train": {"epochs": 2}},
        {"train": {"mode": "online"}},
        {"train": {"seed": 1}},
        {"measure": {"temperatures": [1.0]}},
        {"capture": {"seed": 1}},
        {"measure": {"heldout_prompts": 3}},
        {"target": "hub:some/model"},
    ]
    assert {identity(parse_recipe({**values, **changes})) for changes in same} == {first}
    changed = [identity(parse_recipe({**values, **changes})) for changes in other]
    assert first not in changed
    assert len(set(changed)) == len(other)
    online = [
        {"train": {"mode": "online", "online": {"update_interval": n}, "epochs": e}} for n in (2, 3) for e in (1, 2)
    ]
    assert len({identity(parse_recipe({**values, **changes})) for changes in online}) == 2  # a stream has no epochs


def test_how_a_server_is_asked_is_no_part_of_the_identity():
    def key(**asked: Any) -> str:
        server = {"base_url": "http://here/v1", "model": "m", **asked}
        capture = {"signal": "none", "server": server}
        prompts = {"train": "a.jsonl", "heldout": "b.jsonl"}
        return identity(parse_recipe({"prompts": prompts, "capture": capture, "train": {"loss": "sft"}}))

    same = [{"attempts": 2}, {"requests_per_minute": 3}, {"concurrency": 9}, {"timeout_s": 5}, {"key_env": "KEY"}]
    assert {key(**asked) for asked in same} == {key()}
    assert key(model="other") != key()


def test_a_file_of_the_project_is_the_same_in_another_checkout(tmp_path: Path):
    shipped = "sample_data/prompts/biology/train.jsonl"
    assert project_path(str(PROJECT_ROOT / shipped)) == shipped
    assert project_path(f"/gone/checkout/{shipped}") == shipped
    copy = tmp_path / shipped
    copy.parent.mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / shipped, copy)
    assert project_path(str(copy)) == shipped
    identities._same.cache_clear()
    copy.write_text("{}\n")
    assert project_path(str(copy)) == str(copy)  # another file of the same name is another file
    for kept in ("/gone/sample_data/no-such-file", "hub:a/sample_data/b", "pack:biology/historical"):
        assert project_path(kept) == kept


@pytest.mark.slow
def test_the_first_study_holds_the_runs_of_its_commands():
    from engine.runs.recipes import read_recipe

    shared = [
        "prompts.max_prompt_tokens=512",
        "train.batch_size=8",
        "train.epochs=3",
        "train.eval_every=15",
        "measure.trace_prompts=2",
        "measure.speed_prompts=0",
        "measure.certificate_prompts=1",
        "measure.certificate_tokens=4",
    ]
    cells = {cell.key: cell.name for cell in cells_of(STUDIES / "first.yaml").cells}
    assert len(cells) == 162
    for domain, scenario, loss, size in (
        ("biology", "historical", "lk_hybrid", 200),
        ("chinese", "curated", "forward_kl", 50),
        ("function_calling", "synthetic", "sft", 200),
    ):
        settings = [*shared, f"prompts.train_prompts={size}", f"train.loss={loss}", "name=any"]
        made = read_recipe(home(), f"recipes/domains/{domain}-{scenario}.yaml", settings, skip_bad=False)
        assert cells[identity(made)] == f"first-{domain}-{scenario}-{loss}-{size}".replace("_", "-")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_this_version_can_be_made(path: Path):
    cells = cells_of(path)
    assert cells.cells
    header = path.read_text(encoding="utf-8").split("\nname:")[0]
    assert f"draftbench study recipes/studies/{path.name}" in header
    assert any(word in header for word in ("minutes", "hours"))
