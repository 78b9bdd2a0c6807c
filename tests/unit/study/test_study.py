"""Studies: cells and their names, what makes two cells one, states, starting, growing, a cell that fails, results."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import write_json
from engine.jobs import queue
from engine.paths import PROJECT_ROOT, home
from engine.runs.folder import RunFolder, run_folders
from engine.runs.labels import read_labels
from engine.study import identity as identities
from engine.study import inputs
from engine.study.cells import Cell, Cells, expand, only
from engine.study.identity import identity, project_path
from engine.study.known import find, known, shipped
from engine.study.overview import overview
from engine.study.results import cell_results, mode_comparisons
from engine.study.spec import StudySpec, dump_study, load_study
from engine.study.start import start, study, wait
from tests.unit.conftest import Draftbench
from tests.unit.jobs.test_queue import FAKE_ENGINE, until

STUDIES = PROJECT_ROOT / "recipes" / "studies"
ONLINE = {"train.mode": "online", "train.online.stream": "replay", "train.online.update_interval": 4}
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a study over two prompt files; keywords replace its sections."""

    def write(**changes: Any) -> Path:
        for name in ("a", "b", "held"):
            (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a?"}')
        base = {
            "prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 20},
            "train": {"batch_size": 4},
        }
        values = {"name": "s", "base": base, "axes": {"loss": ["forward_kl", "sft"]}, **changes}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "study.yaml"

    return write


def cells_of(path: Path, *settings: str) -> Cells:
    return expand(load_study(path, settings), home())


def names(cells: Cells) -> list[str]:
    return [cell.name for cell in cells.cells]


def by_name(cells: Cells) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells.cells}


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
    with pytest.raises(DraftbenchError, match="holds no study"):
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


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_this_version_can_be_made(path: Path):
    cells = cells_of(path)
    assert cells.cells
    header = path.read_text(encoding="utf-8").split("\nname:")[0]
    assert f"draftbench study recipes/studies/{path.name}" in header
    assert any(word in header for word in ("minutes", "hours"))


# --- states, starting, growing


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A queue whose jobs do what the run's notes say."""
    from tests.unit.jobs.test_queue import end_all

    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE.format(root=str(PROJECT_ROOT)), encoding="utf-8")
    monkeypatch.setattr(queue, "_ENGINE", (sys.executable, str(script)))
    yield
    end_all(tmp_path)


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "wake", lambda where: None)


def run_of(recipe: Recipe, state: str, **status: Any) -> RunFolder:
    run = RunFolder.create(home(), recipe)
    run.set_status(state=state, **status)
    return run


def stands(path: Path, *settings: str) -> dict[str, str]:
    return {one.cell.name: one.state for one in study(home(), load_study(path, settings)).placed}


def test_a_cell_is_done_iff_a_run_of_the_same_identity_is(written: Written, no_worker: None):
    path = written()
    first, second = (cell.recipe for cell in cells_of(path).cells)
    assert stands(path) == {"s-forward-kl": "to do", "s-sft": "to do"}
    run_of(first.model_copy(update={"name": "made-before", "tags": ["mine"]}), "done")
    run_of(second, "failed")
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "failed"}
    waits = RunFolder.create(home(), second, queued_at="2026-01-01")
    assert stands(path)["s-sft"] == "waiting"  # of several runs the one that is furthest
    waits.set_status(state="cancelled")
    assert stands(path)["s-sft"] == "failed"
    (waits.path / "config.yaml").write_text("{")
    assert stands(path)["s-forward-kl"] == "done"  # a damaged run hides none of the others


def began_with(run: RunFolder, folder: Path) -> None:
    """Note what a run of the study's two cells has read, as the pipeline does."""
    from engine.chat.prompt import prompts_hash
    from engine.data.readers import read_prompts
    from engine.data.subsets import nested_subset

    recipe = run.recipe()
    train = read_prompts(recipe.prompts.train, skip_bad=False).prompts
    chosen = nested_subset(train, recipe.prompts.train_prompts)
    held = read_prompts(recipe.prompts.heldout, skip_bad=False).prompts
    write_json(run.path / "prompts.json", {"train": prompts_hash(chosen), "heldout": prompts_hash(held)})


def prompts_file(path: Path, count: int, word: str) -> None:
    path.write_text("".join(json.dumps({"prompt": f"number {f'{word}{i} ' * 9}?"}) + "\n" for i in range(count)))


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
@pytest.mark.parametrize(("name", "words"), [("a", "training prompts"), ("held", "held-out prompts")])
def test_a_run_of_prompts_that_were_edited_since_holds_no_cell(
    written: Written, tmp_path: Path, no_worker: None, state: str, name: str, words: str
):
    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 3}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    run = run_of(cells_of(path).cells[0].recipe, state)
    began_with(run, tmp_path)
    assert study(home(), load_study(path)).placed[0].run is not None
    assert study(home(), load_study(path)).passed_over == []
    before = (tmp_path / f"{name}.jsonl").read_text()
    (tmp_path / f"{name}.jsonl").write_text(before.replace("number", "count"))
    found = study(home(), load_study(path))
    assert (found.placed[0].state, found.placed[0].run) == ("to do", None)
    assert found.passed_over == [f"run {run.id} began with other {words} than lie there now"]
    assert cell_results(found)[0]["problem"] == found.passed_over[0]
    assert (len(start(home(), found).submitted), run.status().state) == (2, state)  # it is not resumed either
    (tmp_path / f"{name}.jsonl").write_text(before)
    assert study(home(), load_study(path)).placed[0].run is not None
    assert study(home(), load_study(path)).passed_over == []


def test_prompts_that_a_filter_took_out_are_no_difference(written: Written, tmp_path: Path, no_worker: None):
    from engine.chat.prompt import prompts_hash
    from engine.data.readers import read_prompts

    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 4}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    with (tmp_path / "held.jsonl").open("a") as held:
        held.write((tmp_path / "a.jsonl").read_text().splitlines()[0] + "\n")
    run = run_of(cells_of(path).cells[0].recipe, "done")
    began_with(run, tmp_path)
    noted = json.loads((run.path / "prompts.json").read_text())
    kept = read_prompts(run.recipe().prompts.train).prompts[1:]  # the first one is held out
    write_json(run.path / "prompts.json", {**noted, "train": prompts_hash(kept)})
    assert study(home(), load_study(path)).passed_over == []
    write_json(run.path / "prompts.json", {**noted, "train": prompts_hash(kept[1:])})
    assert len(study(home(), load_study(path)).passed_over) == 1


def test_prompts_are_read_once_for_all_looks(
    written: Written, tmp_path: Path, no_worker: None, monkeypatch: pytest.MonkeyPatch
):
    path = written(base={"prompts": {"train": "a.jsonl", "heldout": "held.jsonl", "train_prompts": 3}})
    prompts_file(tmp_path / "a.jsonl", 5, "apple")
    prompts_file(tmp_path / "held.jsonl", 4, "pear")
    for cell in cells_of(path).cells:
        began_with(run_of(cell.recipe, "done"), tmp_path)
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "done"}
    monkeypatch.setattr(inputs, "read_prompts", lambda *_, **__: pytest.fail("read again"))
    inputs._read.cache_clear()  # another process
    inputs._kept.cache_clear()
    assert stands(path) == {"s-forward-kl": "done", "s-sft": "done"}


def test_a_run_of_a_draft_that_was_trained_anew_holds_no_cell(written: Written, tmp_path: Path, no_worker: None):
    card = tmp_path / "generic" / "draft.json"
    write_json(card, {"weights_sha256": "one"})
    base = {
        "prompts": {"train": "a.jsonl", "heldout": "held.jsonl"},
        "draft": {"init": "checkpoint", "checkpoint": "generic"},
    }
    path = written(base=base)
    run = run_of(cells_of(path).cells[0].recipe, "done")
    write_json(run.path / "provenance.json", {"checkpoint_sha256": "one"})
    assert stands(path)["s-forward-kl"] == "done"
    write_json(card, {"weights_sha256": "two", "rounded_from": None})
    assert stands(path)["s-forward-kl"] == "to do"


def test_the_reference_of_a_base_is_found_beside_it(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bases" / "reference").mkdir(parents=True)
    values = {
        "prompts": {"train": "../a.jsonl", "heldout": "../held.jsonl"},
        "train": {"selection": {"share": 0.5, "reference": "reference"}},
    }
    (tmp_path / "bases" / "base.yaml").write_text(yaml.safe_dump(values))
    cell = cells_of(written(base="bases/base.yaml", axes={"loss": ["forward_kl"]})).cells[0]
    assert cell.recipe.train.selection.reference == str(tmp_path / "bases" / "reference")


def test_cells_are_expanded_once_for_several_looks(written: Written, monkeypatch: pytest.MonkeyPatch):
    from engine.study import cells as making

    path, times = written(), []
    expand_it = making.expand
    monkeypatch.setattr(making, "expand", lambda spec, where: times.append(spec.name) or expand_it(spec, where))
    assert [stands(path), stands(path)] == [{"s-forward-kl": "to do", "s-sft": "to do"}] * 2
    stands(path, "train.epochs=2")
    assert len(times) == 2


def test_a_run_that_ends_while_its_worker_is_looked_for_stops_nobody(written: Written, monkeypatch: pytest.MonkeyPatch):
    from engine.study.start import nudge

    woken: list[Any] = []
    monkeypatch.setattr(queue, "wake", woken.append)
    path = written()
    run = RunFolder.create(home(), cells_of(path).cells[0].recipe, queued_at="2026-01-01")
    seen = study(home(), load_study(path))
    for state in ("done", "cancelled"):
        run.set_status(state=state)
        nudge(home(), seen)  # as it stood a moment ago
        assert run.status().state == state
    assert woken == [home(), home()]


def test_a_start_queues_what_is_missing_once_and_adopts_what_is_there(written: Written, no_worker: None):
    path = written(axes={"loss": ["forward_kl", "sft", "tvd", "jsd"]})
    recipes = [cell.recipe for cell in cells_of(path).cells]
    old = run_of(recipes[0].model_copy(update={"tags": ["mine"], "name": "old"}), "done")
    failed, stopped = run_of(recipes[1], "failed"), run_of(recipes[2], "cancelled")
    wanted = study(home(), load_study(path))
    done = start(home(), wanted)
    assert [run.recipe() for run in done.submitted] == [recipes[3]]
    assert [run.id for run in done.resumed] == [stopped.id, failed.id]
    assert read_labels(old).tags == ("mine", "study:s")
    assert [run.id for run in queue.waiting(home())] == [stopped.id, done.submitted[0].id, failed.id]
    again = start(home(), wanted)  # as it stood before: looked at anew
    assert (again.submitted, again.resumed) == ([], [])
    assert len(run_folders(home())) == 4
    assert known(home()) == ["s"]


def test_two_callers_at_once_start_each_cell_once(written: Written, no_worker: None):
    wanted = study(home(), load_study(written()))
    with ThreadPoolExecutor(4) as callers:
        done = [caller.result() for caller in [callers.submit(start, home(), wanted) for _ in range(4)]]
    assert sum(len(one.submitted) for one in done) == len(run_folders(home())) == 2


def test_what_failed_can_be_left(written: Written, no_worker: None):
    path = written()
    run_of(cells_of(path).cells[0].recipe, "failed")
    done = start(home(), study(home(), load_study(path)), retry_failed=False)
    assert (len(done.submitted), done.resumed) == (1, [])


def test_a_failing_cell_stops_no_other_and_a_study_can_grow(written: Written, fake_engine: None, tmp_path: Path):
    losses = {
        name: {"train.loss": name, "notes": "dies early" if name == "sft" else ""} for name in ("tvd", "sft", "jsd")
    }
    path = written(axes={"loss": losses})
    wanted = study(home(), load_study(path))
    start(home(), wanted)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert {one.cell.labels["loss"]: one.state for one in ended.placed} == {
        "tvd": "done",
        "sft": "failed",
        "jsd": "done",
    }
    assert cell_results(ended)[1]["problem"].startswith("the process ended")
    made = {run.id for run in run_folders(home())}

    grown = written(axes={"loss": {**losses, "forward_kl": {"train.loss": "forward_kl"}}})
    assert stands(grown) == {"s-tvd": "done", "s-sft": "failed", "s-jsd": "done", "s-forward-kl": "to do"}
    wanted = study(home(), load_study(grown))
    done = start(home(), wanted)
    assert (len(done.submitted), len(done.resumed)) == (1, 1)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 3, "failed": 1}
    assert {run.id for run in run_folders(home())} - made == {done.submitted[0].id}
    assert overview(home()) == [{"study": "s", "cells": 4, "done": 3, "under_way": 0, "failed": 1, "problem": ""}]


def test_a_worker_that_was_killed_is_missed(written: Written, fake_engine: None, tmp_path: Path, monkeypatch: Any):
    from engine.study import start as starting
    from tests.unit.jobs.test_queue import ours, worker

    monkeypatch.setattr(starting, "_NUDGE_S", 0.2)
    path = written(axes={"loss": {"tvd": {"train.loss": "tvd", "notes": "waits"}, "sft": {"train.loss": "sft"}}})
    wanted = study(home(), load_study(path))
    start(home(), wanted)
    until(lambda: stands(path)["s-tvd"] == "running")
    for process in (worker(tmp_path), *[p for p in ours(tmp_path) if p.cmdline()[-1] != "work"]):
        process.kill()
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 1, "stopped": 1}
    (home().root / "go").touch()
    start(home(), wanted)
    *_, ended = wait(home(), wanted, poll_s=0.05)
    assert ended.counts == {"done": 2}
    assert len(run_folders(home())) == 2


def test_a_study_that_ships_is_found_by_name_until_the_home_has_its_own(written: Written, no_worker: None):
    assert [path.stem for path in shipped()] == ["first", "lora", "rules", "smoke"]
    assert len(find(home(), "first").axes["domain"]) == 3
    start(home(), study(home(), load_study(written(name="first"))))
    assert "domain" not in find(home(), "first").axes


def test_an_unknown_study_is_reported_with_the_known_ones(written: Written, no_worker: None):
    with pytest.raises(DraftbenchError, match="no study 'frist'"):
        find(home(), "frist")
    start(home(), study(home(), load_study(written(name="firts"))))
    with pytest.raises(DraftbenchError) as refused:
        find(home(), "fitrs")
    assert "did you mean 'firts'" in refused.value.fix
    assert isinstance(find(home(), "firts"), StudySpec)
    (home().root / "studies" / "broken.yaml").write_text("name: [")
    assert {row["study"]: bool(row["problem"]) for row in overview(home())} == {"broken": True, "firts": False}


def test_looking_at_a_study_loads_no_torch():
    import subprocess

    code = (
        "import sys\nfrom pathlib import Path\nfrom engine.paths import home\n"
        "from engine.study.spec import load_study\n"
        "from engine.study.start import study\nstudy(home(), load_study(Path('recipes/studies/smoke.yaml')))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


# --- on the tiny pair, through the command line


@pytest.fixture
def tiny_study(recipe: Path, tmp_path: Path) -> Path:
    online = {**ONLINE, "train.online.update_interval": 2}
    values = {
        "name": "tiny-study",
        "base": str(recipe),
        "set": {"prompts.train_prompts": 8, "measure.speed_prompts": 0, "train.eval_every": 1},
        "axes": {"loss": ["sft"], "mode": {"offline": {}, "online": online}},
        "match": ["tokens"],
    }
    (tmp_path / "tiny-study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "tiny-study.yaml"


def test_the_plan_starts_nothing(tiny_study: Path, draftbench: Draftbench):
    output = draftbench("study", str(tiny_study), "--plan", "--json").json()
    assert output["counts"] == {"to do": 3}
    assert output["costs"]["captures"] == 3
    assert output["costs"]["captures_there"] == 0
    assert output["costs"]["disk_bytes"] > 0
    assert output["costs"]["seconds"] is None
    assert output["costs"]["unknown"]
    assert not home().runs.exists()
    shown = draftbench("study", "run", str(tiny_study), "--plan", "--only", "mode=online")
    assert "1 cells: 1 to do" in shown.out
    assert "shared captures: 3, of which 0 exist" in shown.out


@pytest.mark.slow
def test_a_study_from_its_start_to_its_results(tiny_study: Path, draftbench: Draftbench, no_worker: None):
    from engine.runs.execution import execute

    queued = draftbench("study", str(tiny_study), "--queue", "--json").json()
    assert len(queued["submitted"]) == 3
    assert queued["counts"] == {"waiting": 3}
    for run in queue.waiting(home()):
        execute(home(), run, quiet=True)
    assert draftbench("study", str(tiny_study)).code == 0
    shown = draftbench("study", "show", "tiny-study", "--json").json()
    assert {row["state"] for row in shown["cells"]} == {"done"}
    assert all([found["temperature"] for found in row["exact"]] == [0.0, 1.0] for row in shown["cells"])
    compared = shown["modes_compared"]
    assert [(row["equal"], row["temperature"]) for row in compared] == [
        ("own schedule", 0.0),
        ("own schedule", 1.0),
        ("tokens", 0.0),
        ("tokens", 1.0),
    ]
    assert all(row["difference"]["n_prompts"] > 1 for row in compared)
    values = {row["cell"]: row["exact"][1]["value"] for row in shown["cells"]}
    difference = values["tiny-study-sft-equal-tokens"] - values["tiny-study-online-sft"]
    assert compared[3]["difference"]["value"] == pytest.approx(difference, abs=1e-9)
    assert compared[3]["tokens"][0] == compared[3]["tokens"][1]  # as many tokens, as it says
    text = draftbench("study", "show", "tiny-study").out
    assert "modes compared" in text
    assert "equal tokens" in text
    assert json.loads(draftbench("study", "list", "--json").out)[0]["done"] == 3
    assert "tiny-study" in draftbench("study", "list").out


def test_modes_that_are_not_measured_say_so(tiny_study: Path):
    found = study(home(), load_study(tiny_study))
    assert [(row["difference"], row["reason"].startswith("not measured")) for row in mode_comparisons(found)] == [
        (None, True),
        (None, True),
    ]


def test_a_decoded_stream_and_too_few_prompts_are_planned_also_after_an_earlier_run(
    tiny_study: Path, draftbench: Draftbench, finished_home: Path
):
    """An earlier run tells how fast training is; neither cell has a training capture."""
    values = yaml.safe_load(tiny_study.read_text())
    decoded = {"train.mode": "online", "train.online.stream": "decode"}
    values |= {"axes": {"loss": ["sft"], "mode": {"offline": {}, "online": decoded}, "queries": [8, 999]}, "match": []}
    tiny_study.write_text(yaml.safe_dump(values))
    output = draftbench("study", str(tiny_study), "--plan", "--json").json()
    assert output["costs"]["captures"] == 3  # two held out, one of the offline cell
    assert output["costs"]["based_on"]
    assert "999" in output["costs"]["notes"][0]


def test_a_served_study_looks_for_the_captures_its_runs_make(tiny_study: Path, monkeypatch: pytest.MonkeyPatch):
    from engine.planning.outlines import target_outline
    from engine.runs.plan import plan_run, split_prompts
    from engine.study import costs as costing

    values = yaml.safe_load(tiny_study.read_text())
    server = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "requests_per_minute": 4}
    values["set"] |= {"capture.server": server, "capture.signal": "none"}
    values |= {"axes": {"loss": ["sft"]}, "match": []}
    tiny_study.write_text(yaml.safe_dump(values))
    placed = study(home(), load_study(tiny_study)).placed
    recipe = placed[0].cell.recipe
    outlined = target_outline(recipe.target)
    assert outlined is not None
    single = plan_run(home().captures, recipe, outlined, split_prompts(recipe, outlined))
    found, _ = costing._plans(home(), [recipe], costing.SILENT)
    assert [plans.captures for plans in found.values()] == [single.captures]
    assert "server" in single.captures["training"].spec
    assert costing.costs(home(), placed).captures == 4  # training, watched, two held out
