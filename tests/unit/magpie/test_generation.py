"""Synthetic prompts of a tiny target that knows ASCII only: resumable, repeatable, never over others' files."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from engine.config.reading import load_section
from engine.config.schema import PromptSource
from engine.data.readers import read_prompts
from engine.errors import Cancelled, DraftbenchError
from engine.magpie import generation
from engine.magpie import plan as synthesis_plan
from engine.magpie.filters import first_sentence
from engine.magpie.plan import plan_queries
from engine.magpie.recipe import MagpieRecipe
from engine.paths import home
from engine.progress import Progress
from tests.conftest import CHATML, tiny_llama
from tests.kill import kill_myself, run_until_killed
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow

TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": {}}} for name in ("rain", "bus")
]


def save_target(folder: Path, template: str | None = CHATML) -> Path:
    """A random model over printable ASCII, so that what it writes are characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    vocab = {"<|im_start|>": 0, "<|im_end|>": 1, **{symbol: i + 2 for i, symbol in enumerate(letters)}}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", chat_template=template)
    tokenizer.save_pretrained(folder)
    tiny_llama(vocab=len(vocab), initializer_range=0.02, max_position_embeddings=1024).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("models") / "ascii-target")


@pytest.fixture
def recipe(tmp_path: Path, target: Path) -> Path:
    """Eleven queries in batches of four; held-out and tool prompts lie beside the recipe."""
    lines = [{"id": f"t{i}", "prompt": "Which one?", "tools": [TOOLS[i % 2]], "group": f"g{i % 2}"} for i in range(4)]
    (tmp_path / "tools.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "heldout.jsonl").write_text(json.dumps({"prompt": "What is left out of all this?"}), encoding="utf-8")
    values: dict[str, Any] = {
        "name": "tiny",
        "domain": "ascii",
        "target": {"model": str(target), "dtype": "float32", "device": "cpu"},
        "system": [None, "Ask about ferns."],
        "queries": 11,
        "batch_size": 4,
        "max_new_tokens": 150,
        "heldout": "heldout.jsonl",
        "filters": {"min_characters": 1},
        "licence": "CC0-1.0",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def synthesise(recipe: Path, *settings: str, out: Path | None = None, overwrite: bool = False) -> dict[str, Any]:
    return generation.synthesise(home(), str(recipe), settings, out=out, overwrite=overwrite, quiet=True)


def raw_bytes(report: dict[str, Any]) -> bytes:
    return Path(report["raw_file"]).read_bytes()


# -- what is written -------------------------------------------------------------------------


def test_the_command_prints_what_was_kept_and_why_the_others_went(recipe: Path, draftbench: Draftbench, tmp_path: Path):
    out = tmp_path / "mine.jsonl"
    first = draftbench("data", "magpie", str(recipe), "--out", str(out), "--json")
    report = first.json()
    assert first.code == 0, first.err
    assert report["raw"] == 11
    assert 0 < report["kept"] < 11
    assert report["kept"] + sum(removed["count"] for removed in report["removed"].values()) == 11
    text = draftbench("data", "magpie", str(recipe), "--out", str(out)).out
    assert f"tiny: {report['kept']} of 11 raw queries kept" in text
    for name, removed in report["removed"].items():
        assert (re.search(rf"^{name} +{removed['count']} ", text, re.MULTILINE) is not None) == (removed["count"] > 0)
    assert str(out) in text


def test_the_file_is_a_prompt_file_and_the_description_says_how_it_came_about(recipe: Path, tmp_path: Path):
    description = synthesise(recipe, out=tmp_path / "mine.jsonl")
    prompt_set = read_prompts([PromptSource(path=description["file"])])
    records = [json.loads(line) for line in Path(description["file"]).read_text(encoding="utf-8").splitlines()]
    described = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert len(prompt_set.prompts) == described["kept"] == description["kept"]
    assert all(re.fullmatch(r"magpie-ascii-000\d\d", prompt.id) for prompt in prompt_set.prompts)
    assert {(r["domain"], r["scenario"], r["licence"]) for r in records} == {("ascii", "synthetic", "CC0-1.0")}
    assert all(list(r["messages"]) == [{"role": "user", "content": r["messages"][0]["content"]}] for r in records)
    assert described["sha256"] == prompt_set.sources[0]["sha256"]
    assert described["opening"] == "<|im_start|>user\n"
    assert described["recipe"]["queries"] == 11
    assert str(tmp_path) not in json.dumps({**described, "recipe": ""})


def test_every_query_is_written_under_a_tool_set_drawn_by_seed_and_keeps_it(recipe: Path):
    def offered(seed: int) -> list[str]:
        description = synthesise(recipe, "tools_from=tools.jsonl", f"seed={seed}", "queries=16")
        prompts = read_prompts([PromptSource(path=description["file"])]).prompts
        assert all((p.group == "g0") == (p.tools[0]["function"]["name"] == "rain") for p in prompts)
        return [json.loads(line)["tools"] for line in raw_bytes(description).splitlines()]

    assert set(offered(0)) == {0, 1}
    assert offered(0) != offered(1)


def test_tool_sets_over_the_limit_are_left_out_and_none_left_is_an_error(recipe: Path):
    with pytest.raises(DraftbenchError, match=r"no tool set of at most 20 characters \(2 longer ones, 4 prompts\)"):
        synthesise(recipe, "tools_from=tools.jsonl", "max_tools_characters=20")


def raw_lines(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw_bytes(report).splitlines()]


def test_queries_begin_with_the_openings_and_every_one_is_used_before_one_comes_again(recipe: Path):
    openings = [None, "Why do", "Tell me"]

    def begun_with(*settings: str) -> list[str | None]:
        description = synthesise(recipe, f"openings={json.dumps(openings)}", "queries=12", *settings)
        assert description["opening"] == "<|im_start|>user\n"
        assert description["recipe"]["openings"] == openings
        texts = [line["text"] for line in raw_lines(description)]
        return [next((words for words in openings[1:] if text.startswith(words)), None) for text in texts]

    drawn = begun_with()
    assert all(set(drawn[start : start + 3]) == set(openings) for start in range(0, 12, 3))
    assert len({tuple(drawn[start : start + 3]) for start in range(0, 12, 3)}) > 1
    assert drawn != begun_with("seed=1")
    assert drawn == begun_with("batch_size=5", "name=other")


def test_the_filters_see_the_opening_as_part_of_the_query(recipe: Path):
    description = synthesise(recipe, "openings=[null, '[{\"name']")
    assert description["removed"]["call_not_query"]["count"] > 0
    assert description["removed"]["call_not_query"]["example"].startswith('[{"name')


def test_an_opening_that_the_target_added_nothing_to_is_no_query(recipe: Path):
    plan = plan_queries(home(), load_section(MagpieRecipe, recipe, ["openings=Why do"]), recipe.parent)
    opening = plan.opening(plan.steering(0))
    blank, letters = plan.tokenizer("  ")["input_ids"], plan.tokenizer(" ferns")["input_ids"]
    assert generation._query_text(plan, opening, blank) == ("", False)
    assert generation._query_text(plan, opening, letters) == ("Why do ferns", False)


def test_cutting_behind_the_first_sentence_makes_a_query_finished_and_leaves_the_raw_queries_alone(recipe: Path):
    unfinished = synthesise(recipe, "max_new_tokens=60")
    cut = synthesise(recipe, "max_new_tokens=60", "first_sentence=true")
    assert raw_bytes(cut) == raw_bytes(unfinished)
    assert cut["removed"]["unfinished"]["count"] <= unfinished["removed"]["unfinished"]["count"]
    raw = {f"magpie-ascii-{line['number']:05d}": line["text"] for line in raw_lines(cut)}
    prompts = read_prompts([PromptSource(path=cut["file"])]).prompts
    assert all(prompt.text == first_sentence(raw[prompt.id])[0] for prompt in prompts)


def test_openings_from_tools_name_a_tool_that_is_offered_and_an_open_turn_stays_open(recipe: Path):
    description = synthesise(
        recipe, "tools_from=tools.jsonl", "openings_from_tools=true", "openings=[Can you, null]", "queries=12"
    )
    names = {0: "rain", 1: "bus"}
    named = [line["text"].startswith(f"Can you {names[line['tools']]}") for line in raw_lines(description)]
    assert [sum(named[start : start + 2]) for start in range(0, 12, 2)] == [1] * 6


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("search_flights", "search flights"),
        ("Flights.search", "flights search"),
        ("getAirQuality2", "get air quality2"),
        ("send-SMS", "send sms"),
        ("rain", "rain"),
    ],
)
def test_a_tools_name_is_spoken_as_its_words(name: str, spoken: str):
    assert synthesis_plan._spoken_name({"type": "function", "function": {"name": name}}) == spoken


def test_a_recipe_that_leaves_the_turn_open_keeps_the_address_of_what_it_wrote_before_there_were_openings(recipe: Path):
    def spec(*settings: str) -> dict[str, Any]:
        return plan_queries(home(), load_section(MagpieRecipe, recipe, settings), recipe.parent).spec

    assert not [key for key in spec() if key.startswith("openings")]
    assert spec() == spec("openings=[null]") != spec("openings=Why")


# -- repeatable and resumable ----------------------------------------------------------------


def test_more_queries_go_on_behind_those_that_are_there_and_another_filter_writes_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    few = synthesise(recipe)
    begun = raw_bytes(few)
    more = synthesise(recipe, "queries=14")
    assert raw_bytes(more).startswith(b"".join(begun.splitlines(keepends=True)[:8]))
    assert len(raw_bytes(more).splitlines()) == 14
    monkeypatch.setattr(generation, "load_model", lambda spec: pytest.fail("the target was loaded again"))
    fewer = synthesise(recipe, "filters.max_characters=60", "queries=14")
    assert fewer["kept"] < more["kept"]
    assert fewer["removed"]["too_long"]["count"] > 0
    monkeypatch.undo()
    monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path / "another"))
    assert raw_bytes(synthesise(recipe, "queries=14")) == raw_bytes(more)


@pytest.mark.parametrize(
    "setting", ["seed=1", "temperature=0.7", "system=Ask.", "top_k=5", "max_new_tokens=140", "openings=Why"]
)
def test_what_changes_the_queries_changes_the_work_folder(recipe: Path, setting: str):
    def folder(*settings: str) -> Path:
        return plan_queries(home(), load_section(MagpieRecipe, recipe, settings), recipe.parent).folder

    assert folder(setting) != folder() == folder("queries=500", "batch_size=2", "filters.min_characters=9")


@pytest.mark.parametrize("cut", [1, 200])
def test_a_torn_raw_file_is_cut_to_whole_batches_and_filled_again(recipe: Path, cut: int):
    whole = synthesise(recipe)
    raw = Path(whole["raw_file"])
    expected = raw.read_bytes()
    raw.write_bytes(expected[:-cut])
    again = synthesise(recipe)
    assert raw.read_bytes() == expected
    assert again == whole


def test_tool_sets_that_are_too_long_are_counted(recipe: Path, draftbench: Draftbench, tmp_path: Path):
    long = {"type": "function", "function": {"name": "rain", "description": "x" * 400, "parameters": {}}}
    rows = [*(tmp_path / "tools.jsonl").read_text().splitlines(), json.dumps({"prompt": "Well?", "tools": [long]})]
    (tmp_path / "tools.jsonl").write_text("\n".join(rows))
    settings = ("--set", "tools_from=tools.jsonl", "--set", "max_tools_characters=300", "--set", "queries=4")
    shown = draftbench("data", "magpie", str(recipe), *settings)
    assert "offered: 2; left out as longer than max_tools_characters 300: 1." in " ".join(shown.out.split()), shown.err


def test_ctrl_c_keeps_whole_batches_and_the_same_command_goes_on(recipe: Path, draftbench: Draftbench, monkeypatch):
    real, calls = generation._write_batch, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "_write_batch", interrupted)
        stopped = draftbench("data", "magpie", str(recipe), "--json")
    assert stopped.code == 130
    assert "the same command" in stopped.json()["error"]["fix"]
    (raw,) = home().root.glob("magpie/*/raw.jsonl")
    assert len(raw.read_bytes().splitlines()) == 4
    assert draftbench("data", "magpie", str(recipe), "--json").json()["raw"] == 11


def die_after(recipe: Path, home_folder: Path, queries: int) -> None:
    """Writes until that many queries have ended, then is killed."""
    os.environ["DRAFTBENCH_HOME"] = str(home_folder)

    def listen(progress: dict[str, Any]) -> None:
        if progress["done"] >= queries:
            kill_myself()

    plan = plan_queries(home(), load_section(MagpieRecipe, recipe), recipe.parent)
    plan.folder.mkdir(parents=True)
    generation.write_raw(plan, Progress(quiet=True, listen=listen))


@pytest.mark.slow
def test_a_killed_process_loses_one_batch_and_ends_with_the_same_file(recipe: Path, tmp_path: Path, monkeypatch):
    whole = synthesise(recipe)
    monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path / "killed"))
    run_until_killed(die_after, recipe, tmp_path / "killed", 6)
    (raw,) = (tmp_path / "killed").glob("magpie/*/raw.jsonl")
    assert raw.read_bytes() == b"".join(raw_bytes(whole).splitlines(keepends=True)[:4])
    resumed = synthesise(recipe)
    assert raw_bytes(resumed) == raw_bytes(whole)
    assert Path(resumed["file"]).read_bytes() == Path(whole["file"]).read_bytes()


def test_a_second_process_waits_for_the_first(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_queries(home(), load_section(MagpieRecipe, recipe), recipe.parent)
    plan.folder.mkdir(parents=True)
    held, notes = FileLock(plan.folder / ".lock", thread_local=False), []

    def release(self: Progress, text: str) -> None:
        notes.append(text)
        threading.Thread(target=held.release).start()

    monkeypatch.setattr(Progress, "note", release)
    held.acquire()
    assert synthesise(recipe)["raw"] == 11
    assert notes == [f"{plan.folder.name} is being made by another process: waiting to reuse it"]


# -- refusals --------------------------------------------------------------------------------


def test_a_target_without_a_chat_template_is_reported_before_its_weights_are_loaded(recipe: Path, tmp_path: Path):
    folder = save_target(tmp_path / "base", template=None)
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(DraftbenchError, match="no chat template"):
        synthesise(recipe, f"target.model={folder}")


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_files_of_others_are_not_replaced_unless_asked(recipe: Path, tmp_path: Path, name: str):
    precious = tmp_path / name
    precious.write_text("[]", encoding="utf-8")
    with pytest.raises(DraftbenchError, match="was not written by this recipe"):
        synthesise(recipe, out=tmp_path / "mine.jsonl")
    assert precious.read_text(encoding="utf-8") == "[]"
    assert list(home().root.glob("magpie/*/raw.jsonl")) == []
    synthesise(recipe, out=tmp_path / "mine.jsonl", overwrite=True)
    synthesise(recipe, out=tmp_path / "mine.jsonl")
    with pytest.raises(DraftbenchError, match="was not written by this recipe"):
        synthesise(recipe, "seed=1", out=tmp_path / "mine.jsonl")


def test_another_ending_than_jsonl_is_refused(recipe: Path, tmp_path: Path):
    with pytest.raises(DraftbenchError, match=r"does not end in \.jsonl"):
        synthesise(recipe, out=tmp_path / "mine.txt")


def test_nothing_kept_is_an_error_with_the_reasons(recipe: Path):
    with pytest.raises(DraftbenchError, match=r"none of 11 raw queries passed the filters: .*wrong_script \d"):
        synthesise(recipe, "filters.script=han")


def test_an_opening_longer_than_the_context_is_refused(recipe: Path):
    with pytest.raises(DraftbenchError, match="more than the context of 1024"):
        synthesise(recipe, "system=" + "Ask. " * 200)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["querys=3"], "unknown key 'querys' (did you mean 'queries'?"),
        (["filters.scripts=han"], "unknown key 'filters.scripts' (did you mean 'script'?"),
        (["filters.script=klingon"], "filters.script: "),
        (["temperature=0"], "temperature: "),
        (["system=[' ']"], "a system prompt is empty"),
        (["openings=[' ']"], "an opening is empty; null lets the target begin"),
        (["openings_from_tools=true"], "tools_from offers no tools"),
        (["filters.min_characters=900"], "min_characters 900 is above max_characters 800"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_words(recipe: Path, settings: list[str], reason: str):
    with pytest.raises(DraftbenchError) as caught:
        load_section(MagpieRecipe, recipe, settings)
    assert reason in caught.value.what


def test_the_shipped_recipes_read_and_steer():
    from engine.paths import PROJECT_ROOT

    for path in sorted((PROJECT_ROOT / "recipes" / "magpie").glob("*.yaml")):
        loaded_recipe = load_section(MagpieRecipe, path)
        assert loaded_recipe.name == loaded_recipe.domain == path.stem
        assert any(loaded_recipe.system) or any(loaded_recipe.openings)
        assert f"draftbench data magpie recipes/magpie/{path.name}" in path.read_text(encoding="utf-8")


def test_stopping_is_not_an_error_of_ours(recipe: Path):
    plan = plan_queries(home(), load_section(MagpieRecipe, recipe), recipe.parent)
    plan.folder.mkdir(parents=True)
    with pytest.raises(Cancelled):
        generation.write_raw(plan, Progress(quiet=True, stop_wanted=lambda: True))
    assert not plan.raw_file.exists()
