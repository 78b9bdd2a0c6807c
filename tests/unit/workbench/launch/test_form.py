"""The form's knowledge of the schema, and the command line that a form's values become; no browser, no widgets."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from engine.config.reading import apply_overrides, load_recipe, parse_recipe, schema_rows
from engine.config.schema import OnlineSpec, Recipe, ServerSpec
from engine.errors import DraftbenchError
from engine.paths import home
from engine.runs.recipes import read_recipe
from workbench.launch import starting
from workbench.launch.form import field_at, leaves, read_text, shape_of, written
from workbench.launch.parts import parts


def test_every_key_of_the_schema_is_in_the_form():
    drawn = {
        dotted if shape_of(field_at(dotted)).kind != "sections" else f"{dotted}[]" for dotted in leaves()
    }  # a list of sections is one field that holds the keys of its items
    for row in schema_rows():
        section = any(key.startswith(f"{row['key']}.") for key in drawn)  # one that a recipe may leave out
        assert section or row["key"] in drawn or row["key"].rpartition(".")[0] in drawn, row["key"]


@pytest.mark.parametrize(
    ("dotted", "kind", "optional"),
    [
        ("name", "text", False),
        ("target.model", "text", False),
        ("target.revision", "text", True),
        ("target.trust_remote_code", "switch", False),
        ("target.dtype", "choice", False),
        ("draft.layers", "yaml", False),
        ("prompts.train", "sections", False),
        ("train.loss", "sections", False),
        ("train.max_steps", "integer", True),
        ("prompts.train_prompts", "integer", True),
        ("train.learning_rate", "number", False),
        ("measure.temperatures", "yaml", False),
        ("tags", "texts", False),
    ],
)
def test_types_become_widgets(dotted: str, kind: str, optional: bool):
    shape = shape_of(field_at(dotted))
    assert (shape.kind, shape.optional) == (kind, optional)


_AS_TEXT = [4, [0, 3], [0, 1, 29], [2], [0.0], [0.0, 0.7], [], True, "text", 1e-3, -1]
_LOSSY = [[0.1234567], [0.30000000000000004, 1.0], {"0": 40.0}, {"0": 40.0, "1": 70.5, "cpu": 100.0}]


@pytest.mark.parametrize("value", [*_AS_TEXT, *_LOSSY])
def test_what_the_form_shows_as_text_is_read_as_what_it_was(value: Any):
    read = read_text(written(value))
    assert ({str(name): size for name, size in read.items()} if isinstance(read, dict) else read) == value


def test_memory_by_device_is_typed_as_its_help_shows_it():
    values = {"target": {"device_map": "auto", "max_memory_gb": read_text("{0: 40, 1: 70, cpu: 100}")}}
    recipe = parse_recipe({**values, "prompts": {"train": "a", "heldout": "b"}})
    assert recipe.target.max_memory_gb == {"0": 40, "1": 70, "cpu": 100}


def test_constraints_become_limits_and_excluded_whole_ones_move_by_one():
    gamma = shape_of(field_at("measure.num_draft_tokens"))
    assert (gamma.lowest, gamma.highest) == (1, 32)
    assert shape_of(field_at("train.warmup_fraction")).lowest == 0
    assert shape_of(field_at("capture.max_new_tokens")).lowest == 1


def test_every_default_lies_within_the_limits_that_are_offered():
    for dotted in leaves():
        field, shape = field_at(dotted), shape_of(field_at(dotted))
        if shape.kind in ("integer", "number") and field.default is not None:
            assert (shape.lowest is None) or field.default >= shape.lowest, dotted
            assert (shape.highest is None) or field.default <= shape.highest, dotted


def through_a_shell(line: str) -> Recipe:
    """The recipe that the command line gives."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:2] == ["draftbench", "run"]
    assert words[3] == "--queue"
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return read_recipe(home(), words[2], settings, skip_bad=False)


SERVER = ServerSpec(base_url="http://127.0.0.1:8000/v1", model="it's one").model_dump()
SFT = {"loss": [{"name": "sft", "weight": 1.0, "beta": 0.5, "eta": 3.0}]}
CHANGES: list[dict[str, Any]] = [
    {},
    {"name": "mine", "notes": "it's $HOME `x`; a: b\n[second] line", "tags": ["a b", "c,d", "1"]},
    {
        "train": {
            "loss": [{"name": "jsd", "weight": 1.0, "beta": 0.5, "eta": 3.0}],
            "learning_rate": 1e-5,
            "max_steps": 7,
        }
    },
    {
        "train": {
            "loss": [
                {"name": "jsd", "weight": 0.25, "beta": 0.1, "eta": 3.0},
                {"name": "sft", "weight": 1.0, "beta": 0.5, "eta": 3.0},
            ]
        }
    },
    {
        "measure": {"temperatures": [0.0, 0.7, 1.0], "heldout_prompts": None, "adaptive": True},
        "draft": {"layers": [0, 9, 29]},
    },
    {"prompts": {"domain": "12", "max_prompt_tokens": 300, "train_prompts": 64}, "capture": {"signal": "compact"}},
    {"train": {"mode": "online", "online": {**OnlineSpec().model_dump(), "stream": "replay", "replay_share": 0.5}}},
    {"train": {"mode": "on_policy", "selection": {"share": 0.4, "reference": "hub:a/b"}}},
    {"capture": {"signal": "none", "server": {**SERVER, "key_env": "A_KEY", "requests_per_minute": 60}}, "train": SFT},
    {"capture": {"signal": "none", "server": SERVER}, "train": SFT},
    {"target": {"model": "hub:a/b", "revision": "1e3", "trust_remote_code": True}},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("name", ["from_layers", "jsd"])
def test_the_command_line_gives_the_very_recipe_of_the_form(name: str, changes: dict[str, Any]):
    start = starting.from_recipe(name)
    values = {k: {**start.values[k], **v} if isinstance(v, dict) else v for k, v in {**start.values, **changes}.items()}
    line = starting.command(start.argument, starting.overrides(start.values, values))
    assert through_a_shell(line) == starting.checked(home(), start, values)
    if not changes:
        assert line == f"draftbench run recipes/{name}.yaml --queue"


def test_a_changed_prompt_source_survives_the_command_line(tmp_path: Path):
    file = tmp_path / "it's mine.jsonl"
    file.write_text('{"prompt": "a"}')
    start = starting.from_recipe("quickstart")
    blank = start.values["prompts"]["train"][0]
    sources = [{**blank, "path": str(file), "limit": 3}, blank]
    values = {**start.values, "prompts": {**start.values["prompts"], "train": sources}}
    line = starting.command(start.argument, starting.overrides(start.values, values))
    assert through_a_shell(line) == starting.checked(home(), start, values)


def test_a_lone_loss_is_written_as_a_person_would():
    start = starting.from_recipe("quickstart")
    other = {**start.values["train"], "loss": [{**start.values["train"]["loss"][0], "name": "tvd"}]}
    assert starting.overrides(start.values, {**start.values, "train": other}) == ["train.loss=tvd"]


def test_a_server_that_is_taken_out_is_taken_out_on_the_command_line():
    start = starting.from_recipe("quickstart")
    capture = {**start.values["capture"], "signal": "none", "server": SERVER}
    values = {**start.values, "capture": capture, "train": {**start.values["train"], **SFT}}
    begun = dataclasses.replace(start, values=values)
    without = {**values, "capture": {**capture, "server": None}}
    assert starting.overrides(begun.values, without) == ["capture.server=null"]
    assert parse_recipe(apply_overrides(begun.values, ["capture.server=null"])) == parse_recipe(without)


def test_sections_of_a_mode_are_known_by_their_names():
    found = {part.key: (part.choice, part.option, part.optional) for part in parts()}
    assert found == {
        "draft.lora": ("", "", True),
        "capture.server": ("", "", True),
        "train.online": ("train.mode", "online", False),
        "train.on_policy": ("train.mode", "on_policy", False),
        "train.selection": ("", "", False),
    }


def test_recipes_tell_what_they_are_and_how_long_they_take():
    assert starting.recipe_names()[0] == "quickstart"
    for name in starting.recipe_names():
        start = starting.from_recipe(name)
        assert len(start.about) > 30
        assert "draftbench run" not in start.about
        assert parse_recipe(start.values) == load_recipe(starting.RECIPES / f"{name}.yaml")
    assert "minutes" in starting.from_recipe("quickstart").about


@pytest.mark.parametrize("name", ["../quickstart", "nothing", "quickstrat"])
def test_only_recipes_of_the_folder_can_be_named(name: str):
    with pytest.raises(DraftbenchError, match="no recipe"):
        starting.from_recipe(name)


def test_a_refused_recipe_is_offered_the_settings_that_would_each_do():
    start = starting.from_recipe("quickstart")
    ways = ["train.online.stream=replay", "draft.vocabulary=null"]
    online = apply_overrides(start.values, ["train.mode=online"])
    with pytest.raises(DraftbenchError, match=r"set train\.online\.stream to replay"):
        parse_recipe(online)
    assert [setting for setting, _ in starting.ways_out(start, online)] == ways
    for setting in ways:
        assert parse_recipe(apply_overrides(online, [setting])).train.mode == "online"
    assert [s for s, _ in starting.ways_out(start, start.values, {"train.mode": ["offline", "online"]})] == ways
    assert starting.ways_out(start, start.values) == []
    assert starting.ways_out(start, {**online, "name": "no spaces allowed"}) == []
