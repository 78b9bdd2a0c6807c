"""The schema: what it refuses and how it says so, its short forms, overrides, and that it stays light to import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config.reading import (
    apply_overrides,
    dump_recipe,
    load_recipe,
    load_section,
    one_line,
    parse_recipe,
    parse_section,
    parse_settings,
    recipe_values,
    schema_rows,
    section_at,
    value_at,
)
from engine.config.schema import LossTerm, Recipe, TrainSpec
from engine.errors import DraftbenchError
from engine.magpie.recipe import MagpieRecipe
from engine.paths import resolve_input
from engine.tune.recipe import TuneRecipe

PROMPTS = {"train": "a.jsonl", "heldout": "b.jsonl"}


def recipe(**sections: Any) -> Recipe:
    return parse_recipe({"prompts": PROMPTS, **sections})


@pytest.mark.parametrize(
    ("sections", "wrong", "nearest"),
    [
        ({"train": {"learnin_rate": 1}}, "train.learnin_rate", "learning_rate"),
        ({"trian": {}}, "trian", "train"),
        ({"target": {"modl": "x"}}, "target.modl", "model"),
        ({"train": {"loss": [{"name": "jsd", "betta": 0.1}]}}, "train.loss.0.betta", "beta"),
        ({"prompts": {**PROMPTS, "train": [{"path": "a", "splitt": "x"}]}}, "prompts.train.0.splitt", "split"),
        ({"measure": {"num_draft_token": 2}}, "measure.num_draft_token", "num_draft_tokens"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(sections, wrong, nearest):
    with pytest.raises(DraftbenchError) as caught:
        recipe(**sections)
    assert f"unknown key {wrong!r} (did you mean {nearest!r}?" in caught.value.what


def test_every_finding_is_reported_at_once():
    with pytest.raises(DraftbenchError) as caught:
        recipe(train={"epochs": -1, "batchsize": 2}, capture={"top_p": 0})
    assert all(part in caught.value.what for part in ("train.epochs", "train.batchsize", "capture.top_p"))


@pytest.mark.parametrize("model", ["asset:smollm2-135m-instruct", "/models/base", "base.gguf"])
def test_a_version_is_refused_of_what_is_not_from_the_hub_unless_the_run_is_there_already(model: str):
    values = {"prompts": PROMPTS, "target": {"model": model, "revision": "v1"}}
    with pytest.raises(DraftbenchError, match="revision 'v1' has no use"):
        parse_recipe(values)
    assert parse_recipe(values, stored=True).target.revision == "v1"
    assert recipe(target={"model": "hub:org/base", "revision": "v1"}).target.revision == "v1"


def test_a_missing_section_is_named():
    with pytest.raises(DraftbenchError, match=r"'prompts' is missing"):
        parse_recipe({})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", 0),
        ("train", "epochs", float("nan")),
        ("train", "learning_rate", float("inf")),
        ("train", "warmup_fraction", 1.0),
        ("train", "mode", "sideways"),
        ("train", "loss", []),
        ("train", "loss", [{"name": "jsd", "beta": 1.0}]),
        ("train", "loss", [{"name": "jsd", "weight": 0}]),
        ("train", "batch_size", 1.5),
        ("capture", "temperature", -0.1),
        ("capture", "top_p", 1.01),
        ("capture", "signal", "approximate"),
        ("capture", "signal_top_k", 0),
        ("measure", "temperatures", []),
        ("measure", "temperatures", [1.0, 1.0]),
        ("measure", "temperatures", [-1.0]),
        ("measure", "num_draft_tokens", 0),
        ("draft", "layers", "all"),
        ("draft", "init", "magic"),
        ("target", "dtype", "int4"),
        ("target", "model", ""),
    ],
)
def test_a_wrong_value_is_refused_and_its_key_is_named(section, key, value):
    with pytest.raises(DraftbenchError, match=section):
        recipe(**{section: {key: value}})


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "x" * 65, "a b"])
def test_a_run_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(DraftbenchError, match="name"):
        recipe(name=name)


def test_a_loss_is_a_name_a_mapping_or_a_weighted_list():
    assert recipe(train={"loss": "tvd"}).train.loss == [LossTerm(name="tvd")]
    assert recipe(train={"loss": {"name": "jsd", "beta": 0.2}}).train.loss == [LossTerm(name="jsd", beta=0.2)]
    mixed = recipe(train={"loss": ["sft", {"name": "forward_kl", "weight": 0.5}]}).train.loss
    assert mixed == [LossTerm(name="sft"), LossTerm(name="forward_kl", weight=0.5)]


def test_a_model_and_a_prompt_source_can_be_given_by_name_alone():
    made = recipe(target="hub:a/b", prompts={"train": ["x.jsonl", {"path": "y", "limit": 3}], "heldout": "z"})
    assert made.target.model == "hub:a/b"
    assert [(s.path, s.limit) for s in made.prompts.train] == [("x.jsonl", None), ("y", 3)]


@pytest.mark.parametrize("loss", ["forward_kl", ["sft", "tvd"]])
def test_a_capture_without_signal_refuses_a_divergence(loss):
    with pytest.raises(DraftbenchError, match="keeps no distribution"):
        recipe(capture={"signal": "none"}, train={"loss": loss})


def test_a_capture_without_signal_is_enough_for_sft():
    assert recipe(capture={"signal": "none"}, train={"loss": "sft"}).capture.signal == "none"


def test_a_compact_signal_refuses_a_distillation_temperature():
    with pytest.raises(DraftbenchError, match="distill_temperature"):
        recipe(capture={"signal": "compact"}, train={"distill_temperature": 2})
    assert recipe(capture={"signal": "exact"}, train={"distill_temperature": 2}).train.distill_temperature == 2


SERVER = {"base_url": "http://127.0.0.1:8000/v1", "model": "m"}


def test_a_servers_likeliest_tokens_are_a_signal_for_every_loss():
    for loss in ("forward_kl", "tvd_pp", "argmax_ce", ["sft", "tvd"]):
        made = recipe(capture={"signal": "compact", "server": {**SERVER, "logprobs": 20}}, train={"loss": loss})
        assert made.capture.server is not None
        assert made.capture.server.logprobs == 20


@pytest.mark.parametrize(
    ("signal", "logprobs", "more", "why"),
    [
        ("exact", None, {}, "sends no hidden states"),
        ("exact", 20, {}, "sends no hidden states"),
        ("compact", None, {}, r"needs capture\.server\.logprobs"),
        ("none", 20, {"train": {"loss": "sft"}}, "kept by capture.signal 'compact' alone"),
        ("compact", 20, {"train": {"mode": "on_policy"}}, "the target is on a server"),
        ("compact", 20, {"train": {"mode": "online", "online": {"stream": "replay"}}}, "likeliest alone"),
        ("none", None, {"train": {"loss": "sft", "mode": "online", "online": {"stream": "replay"}}}, "sends no more"),
        ("compact", 20, {"train": {"mode": "online"}}, "a stream that is decoded.* use train.mode 'offline'"),
        ("compact", 20, {"train": {"distill_temperature": 2}}, "distill_temperature"),
        ("compact", 20, {"draft": {"vocabulary": 64}}, "trimmed vocabulary"),
    ],
)
def test_what_a_truncated_signal_cannot_do_is_refused(signal: str, logprobs: Any, more: dict[str, Any], why: str):
    with pytest.raises(DraftbenchError, match=why):
        recipe(capture={"signal": signal, "server": {**SERVER, "logprobs": logprobs}}, **more)


@pytest.mark.parametrize("signal", ["compact", "none"])
def test_a_stream_is_replayed_from_an_exact_signal_alone_and_an_earlier_recipe_stays_readable(signal: str):
    train = {"mode": "online", "online": {"stream": "replay"}, "loss": "sft"}
    with pytest.raises(DraftbenchError, match=f"capture.signal '{signal}' does not keep it"):
        recipe(capture={"signal": signal}, train=train)
    values = {"prompts": PROMPTS, "capture": {"signal": signal}, "train": train}
    assert parse_recipe(values, stored=True).capture.signal == signal


@pytest.mark.parametrize("draft", [{"init": "checkpoint"}, {"checkpoint": "some-run"}])
def test_a_checkpoint_is_given_exactly_when_the_draft_starts_from_one(draft):
    with pytest.raises(DraftbenchError, match=r"draft\.checkpoint"):
        recipe(draft=draft)


def test_overrides_are_read_as_yaml_and_leave_the_original_alone():
    values: dict[str, Any] = {"prompts": PROMPTS, "train": {"epochs": 1}}
    changed = apply_overrides(values, ["train.epochs=2", "measure.temperatures=[0, 0.5]", "tags=[a]", "notes=x=y"])
    made = parse_recipe(changed)
    assert (made.train.epochs, made.measure.temperatures, made.tags, made.notes) == (2, [0, 0.5], ["a"], "x=y")
    assert values["train"] == {"epochs": 1}


def test_an_override_reaches_into_a_target_given_by_name():
    made = parse_recipe(apply_overrides({"prompts": PROMPTS, "target": "hub:a/b"}, ["target.dtype=float32"]))
    assert (made.target.model, made.target.dtype) == ("hub:a/b", "float32")


@pytest.mark.parametrize("override", ["train.epochs", "=2", "notes=[1", "notes={a: b: c}"])
def test_an_override_that_cannot_be_read_is_refused(override):
    with pytest.raises(DraftbenchError, match=r"--set"):
        apply_overrides({"prompts": PROMPTS}, [override])


def test_an_override_of_an_unknown_key_is_refused_like_any_other():
    with pytest.raises(DraftbenchError, match="did you mean 'epochs'"):
        parse_recipe(apply_overrides({"prompts": PROMPTS}, ["train.epoch=2"]))


def test_a_dumped_recipe_loads_as_the_same_recipe(tmp_path: Path):
    made = recipe(
        name="Round-trip.1",
        target={"model": "hub:a/b", "dtype": "bfloat16"},
        draft={"layers": [0, 3, 7]},
        prompts={**PROMPTS, "domain": "生物", "max_prompt_tokens": 100},
        train={"loss": [{"name": "jsd", "beta": 0.1}, "sft"], "learning_rate": 1e-5, "max_steps": 7},
        tags=["on", "1", "null"],
        notes="zwei\nZeilen: # kein Kommentar 🙂",
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(made), encoding="utf-8")
    assert load_recipe(path) == made


def test_a_dumped_recipe_spells_out_every_default():
    written = yaml.safe_load(dump_recipe(recipe()))
    assert written["train"]["learning_rate"] == Recipe.model_fields["train"].default.learning_rate
    assert written["train"]["loss"][0]["name"] == "forward_kl"
    assert written["target"]["model"].startswith("asset:")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "\tx"])
def test_a_file_that_holds_no_recipe_is_refused_by_name(tmp_path: Path, text: str):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(DraftbenchError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_recipe_is_laid_over_the_one_its_base_names(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("prompts: {train: a, heldout: b}\ntrain: {epochs: 2, seed: 5}\ntags: [x, y]\n")
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../root.yaml\ntrain: {epochs: 3, loss: jsd}\n")
    (tmp_path / "deep" / "top.yaml").write_text("base: middle.yaml\ntrain: {loss: tvd}\ntags: [z]\n")
    made = load_recipe(tmp_path / "deep" / "top.yaml", ["train.batch_size=3"])
    assert (made.train.epochs, made.train.seed, made.train.batch_size) == (3, 5, 3)
    assert [term.name for term in made.train.loss] == ["tvd"]
    assert made.tags == ["z"]


@pytest.mark.parametrize(
    ("base", "child", "key", "expected"),
    [
        ("target: hub:a/b", "target: {dtype: float32}", "target", {"model": "hub:a/b", "dtype": "float32"}),
        ("target: {model: hub:a/b, dtype: float32}", "target: hub:c/d", "target", "hub:c/d"),
        ("train: {loss: jsd}", "train: {loss: {beta: 0.1}}", "train.loss", {"name": "jsd", "beta": 0.1}),
        ("train: {loss: [jsd]}", "train: {loss: {beta: 0.1}}", "train.loss", {"name": "jsd", "beta": 0.1}),
        ("train: {loss: [jsd, sft]}", "train: {loss: {name: tvd}}", "train.loss", {"name": "tvd"}),
        ("prompts: {train: a}", "prompts: {train: {limit: 3}}", "prompts.train", {"path": "a", "limit": 3}),
    ],
)
def test_a_shorthand_in_a_base_is_what_it_stands_for(tmp_path: Path, base: str, child: str, key: str, expected: Any):
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "child.yaml").write_text(f"base: base.yaml\n{child}")
    assert value_at(recipe_values(tmp_path / "child.yaml"), key) == expected


def test_a_shorthand_in_the_base_of_another_kind_of_recipe_is_what_it_stands_for(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("name: a\ndata: {train: a.jsonl, heldout: b.jsonl}")
    (tmp_path / "child.yaml").write_text("base: base.yaml\ndata: {train: {limit: 3}}")
    made = load_section(TuneRecipe, tmp_path / "child.yaml", ["data.heldout.limit=4"])
    assert [(s.path, s.limit) for s in (*made.data.train, *made.data.heldout)] == [("a.jsonl", 3), ("b.jsonl", 4)]


def test_paths_of_a_base_count_from_its_own_folder(tmp_path: Path):
    deep = tmp_path / "deep"
    deep.mkdir()
    for name in ("a.jsonl", "b.jsonl", "deep/a.jsonl"):
        (tmp_path / name).touch()
    (deep / "base.yaml").write_text("prompts: {train: a.jsonl, heldout: [{path: b.jsonl}]}\ntarget: hub:a/b")
    (tmp_path / "child.yaml").write_text("base: deep/base.yaml\nprompts: {domain: x}")
    read = load_recipe(tmp_path / "child.yaml")
    assert read.prompts.train[0].path == str(deep / "a.jsonl"), "both have one"
    assert read.prompts.heldout[0].path == "b.jsonl", "looked for as ever"
    assert read.target.model == "hub:a/b"
    (tmp_path / "child.yaml").write_text("base: deep/base.yaml\nprompts: {train: a.jsonl}")
    assert load_recipe(tmp_path / "child.yaml").prompts.train[0].path == "a.jsonl"


def test_bases_in_a_circle_or_nowhere_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(DraftbenchError, match="is its own base"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("base: gone.yaml")
    with pytest.raises(DraftbenchError, match=r"gone\.yaml"):
        load_recipe(tmp_path / "c.yaml")


def test_yaml_tags_cannot_make_objects(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text(
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{tmp_path / 'ran'}']]"
    )
    with pytest.raises(DraftbenchError, match="not valid YAML"):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()


def test_every_key_has_a_meaning_and_a_reachable_section():
    rows = schema_rows()
    assert len(rows) > 60
    for row in rows:
        assert len(row["meaning"]) > 5, f"{row['key']} has no description"
        location = row["key"].replace("[]", "").split(".")
        section = section_at(location)
        assert section is not None
        assert location[-1] in section.model_fields


def test_the_schema_lists_choices_and_sections_that_a_recipe_may_leave_out():
    rows = {row["key"]: row for row in schema_rows()}
    assert rows["train.schedule"]["choices"] == ["cosine", "linear", "constant"]
    assert rows["target.quantize"]["choices"] == ["int8"]
    assert rows["capture.batch_size"]["choices"] == []  # a number or a word
    for section in ("draft.lora", "capture.server"):
        assert rows[section]["default"] is None, section


@pytest.mark.parametrize(
    "row", [row for row in schema_rows() if row["default"] != "required"], ids=lambda row: row["key"]
)
def test_a_default_as_schema_prints_it_means_the_default(row: dict[str, Any]):
    assert parse_settings([f"{row['key']}={one_line(row['default'])}"]) == {row["key"]: row["default"]}


def test_a_recipe_of_another_kind_is_not_sent_to_the_schema_of_a_run():
    with pytest.raises(DraftbenchError) as caught:
        parse_section(MagpieRecipe, {"train": {"epochs": 2}})
    assert "draftbench schema" not in caught.value.fix


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("draft.layers=x", "draft.layers: "),
        ("draft.layers=[0, x]", "draft.layers.1: "),
        ("capture.batch_size=0", "capture.batch_size: "),
        ("train.loss=[{name: sft, weight: x}]", "train.loss.0.weight: "),
        ("target={device_map: auto, max_memory_gb: {cpu: x}}", "target.max_memory_gb.cpu: "),
    ],
)
def test_a_wrong_value_is_named_by_its_key_alone(setting: str, key: str):
    with pytest.raises(DraftbenchError) as refused:
        parse_recipe(apply_overrides({"prompts": {"train": "a", "heldout": "b"}}, [setting]))
    assert key in refused.value.what
    assert "int:" not in refused.value.what
    assert "]:" not in refused.value.what


def test_a_target_alone_without_timing_leaves_nothing_to_measure():
    values = {
        "task": "measure",
        "draft": {"init": "none"},
        "prompts": {"heldout": "b.jsonl"},
        "measure": {"speed_prompts": 0},
    }
    with pytest.raises(DraftbenchError, match="speed is all that can be measured"):
        parse_recipe(values)
    assert parse_recipe(values, stored=True).measure.speed_prompts == 0  # a run of an earlier version can be read


def test_a_recipe_cannot_be_changed_after_its_check():
    with pytest.raises(ValueError, match="frozen"):
        recipe().train.epochs = 5.0  # type: ignore[misc]


def test_a_key_twice_is_refused_with_both_lines(tmp_path: Path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\ntrain:\n  epochs: 1\nnotes: a\ntrain:\n  loss: tvd\n")
    with pytest.raises(DraftbenchError, match="'train' stands at line 2 and again at line 5"):
        load_recipe(path)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(8)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "values once its aliases are written out"),
        ("notes: " + "[" * 5000, "nested deeper"),
        ("notes: &me [*me]", "contains itself"),
        ("? [a, b]\n: c\n", "not a plain word"),
        ("notes: !!timestamp 2025-13-45", "month must be in"),
        (f"notes: {'7' * 4400}", "4300 digits"),
        ('notes: "\\ud83d"', "invalid Unicode character"),
        ("notes: a\n---\nnotes: b\n", "expected a single document"),
        ("notes: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("notes: " + "x" * 600_000, "at most 524,288 are read"),
        ("notes: a".encode("utf-16"), "not UTF-8"),
        (b"notes: caf\xe9", "not UTF-8"),
        ("1: x", "Keys should be strings"),
        ("prompts: {train: a, heldout: b}\ntrain: {seed: 18446744073709551615}", "seed must be within 63 bits"),
        ("prompts: {train: a, heldout: b}\ntrain: {epochs: 1" + "0" * 400 + "}", "train.epochs"),
        ("prompts: {train: a, heldout: b}\ndraft: {layers: [9223372036854775808]}", "layers must be within 63 bits"),
        ("prompts: {train: a, heldout: b}\nmeasure: {temperatures: [1.0e+300]}", "at most 10"),
        ("prompts: {train: a, heldout: b}\nmeasure: {temperatures: [.nan]}", "finite number"),
    ],
)
def test_yaml_that_is_no_recipe_is_refused_in_words(tmp_path: Path, text: str | bytes, message: str):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DraftbenchError, match=message):
        load_recipe(path)


def test_dates_in_yaml_are_text_with_or_without_a_mark_of_utf8(tmp_path: Path):
    path = tmp_path / "dated.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: 2025-01-01\nnotes: 2025-13-45\nprompts: {train: a, heldout: b}\n")
    assert (load_recipe(path).name, load_recipe(path).notes) == ("2025-01-01", "2025-13-45")


def test_what_two_places_share_by_an_alias_can_be_changed_at_one(tmp_path: Path):
    path = tmp_path / "alias.yaml"
    path.write_text("prompts: {train: &x {path: a}, heldout: *x}\n")
    recipe = load_recipe(path, ["prompts.train.limit=3"])
    assert (recipe.prompts.train[0].limit, recipe.prompts.heldout[0].limit) == (3, None)


@pytest.mark.parametrize(
    "settings",
    [["train.epochs=1", "train.epochs=2"], ["train.epochs=1", "train={loss: tvd}"]],
)
def test_settings_that_undo_each_other_are_refused(settings: list[str]):
    with pytest.raises(DraftbenchError, match=r"--set train\.epochs=1 is undone by"):
        apply_overrides({}, settings)


def test_a_key_of_a_list_with_several_items_is_refused_with_the_whole_list():
    values = {"train": {"loss": [{"name": "jsd", "beta": 0.1, "weight": 2}, "sft"]}}
    with pytest.raises(DraftbenchError, match=r"train\.loss is a list of 2 items") as refused:
        apply_overrides(values, ["train.loss.name=reverse_kl"])
    assert "--set 'train.loss=[{name: jsd, beta: 0.1, weight: 2}, sft]'" in str(refused.value)
    with pytest.raises(DraftbenchError, match=r"measure\.temperatures is a list of 2"):
        apply_overrides({"measure": {"temperatures": [0, 1]}}, ["measure.temperatures.first=1"])


def test_a_key_of_the_only_item_of_a_list_is_set_in_it():
    made = apply_overrides({"train": {"loss": [{"name": "jsd", "weight": 2}]}}, ["train.loss.beta=0.1"])
    assert made["train"]["loss"] == {"name": "jsd", "weight": 2, "beta": 0.1}


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-that-name/x", "caf\udce9.jsonl"])
def test_a_path_that_cannot_be_is_an_error_in_words(path: str):
    with pytest.raises(DraftbenchError):
        resolve_input(path)


def test_only_regular_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "state").symlink_to("/proc/self/environ")
    for name, kind in {
        "fifo": "FIFO",
        "device": "device",
        "loop": "could not",
        "state": "of the system",
        ".": "a folder",
    }.items():
        with pytest.raises(DraftbenchError, match=kind):
            load_recipe(tmp_path / name)


@pytest.mark.parametrize("written", ["010", "-0_17", "1:30", "190:20:30", "1:30.5"])
def test_numbers_that_two_readers_of_yaml_read_as_two_are_refused(tmp_path: Path, written: str):
    path = tmp_path / "r.yaml"
    path.write_text(f"prompts: {{train: a, heldout: b}}\ntrain: {{epochs: {written}}}\n")
    with pytest.raises(DraftbenchError, match="another number to another reader"):
        load_recipe(path)


@pytest.mark.parametrize(
    "sections", [{"train": {"epochs": True}}, {"measure": {"temperatures": [True, 0.7]}}, {"draft": {"layers": False}}]
)
def test_yes_and_no_are_no_numbers(sections: dict[str, Any]):
    with pytest.raises(DraftbenchError, match="neither a number nor text"):
        recipe(**sections)


def test_merge_keys_are_merged_and_may_be_overridden_but_not_repeated(tmp_path: Path):
    path = tmp_path / "r.yaml"
    head = "prompts: {train: a, heldout: b}\ncapture: &short {max_new_tokens: 9, top_p: 0.5}\nmeasure:\n  <<: *short\n"
    path.write_text(head + "  max_new_tokens: 7\n")
    read = load_recipe(path)
    assert (read.measure.max_new_tokens, read.measure.top_p, read.capture.max_new_tokens) == (7, 0.5, 9)
    path.write_text(head + "  <<: {max_new_tokens: 7}\n")
    with pytest.raises(DraftbenchError, match="'<<' stands at line 4 and again at line 5"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("train", "batch"),
    [({}, (16, None)), ({"batch_tokens": 4096}, (None, 4096)), ({"batch_tokens": 9, "batch_size": None}, (None, 9))],
)
def test_a_batch_is_so_many_answers_or_so_many_tokens(train: dict[str, Any], batch: tuple[int | None, int | None]):
    spec = TrainSpec.model_validate(train)
    assert (spec.batch_size, spec.batch_tokens) == batch
    assert TrainSpec.model_validate(spec.model_dump()) == spec  # as a run's config.yaml is read again


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ({"batch_size": 16, "batch_tokens": 4096}, "set the other one to null"),
        ({"batch_size": None}, "a step needs one of them"),
    ],
)
def test_two_batch_sizes_or_none_are_refused(train: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        TrainSpec.model_validate(train)


@pytest.mark.parametrize(
    "sections",
    [
        {"capture": {"temperature": 1e-40}},
        {"measure": {"temperatures": [0, 0.0009]}},
        {"measure": {"speed_temperature": 1e-12}},
        {"train": {"distill_temperature": 1e-40}},
        {"train": {"on_policy": {"temperature": 1e-6}}},
    ],
)
def test_a_temperature_that_rounding_would_decide_at_is_refused_and_stays_readable(sections: dict[str, Any]):
    values = {"prompts": PROMPTS, **sections}
    with pytest.raises(DraftbenchError, match=r"a temperature is 0, which is greedy, or at least 0\.001"):
        parse_recipe(values)
    assert parse_recipe(values, stored=True).name == "run"


def test_the_least_temperature_and_greedy_are_taken():
    made = recipe(measure={"temperatures": [0, 0.001]}, capture={"temperature": 0})
    assert (made.measure.temperatures, made.capture.temperature) == ([0, 0.001], 0)
