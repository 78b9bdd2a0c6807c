"""Hub presets: rows of each dataset's own form become packs, from a local folder in place of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from engine.config.schema import PromptSource
from engine.data.packs import preset_rows, sets
from engine.data.packs.build import describe_pack, fetched_packs, pack_folder, packs_folder, read_side
from engine.data.packs.fetch import fetch_packs, list_packs
from engine.data.packs.filters import tool_names
from engine.data.packs.preset_rows import xlam_tool
from engine.data.packs.presets import PRESETS, fetch_preset, find_preset
from engine.data.readers import read_prompts
from engine.errors import DraftbenchError
from tests.unit.conftest import Draftbench


@pytest.fixture(autouse=True)
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "sample_files", lambda name: [])


def question(number: int) -> str:
    return f"Question {number * 7919} about thing {number * 104729}, please?"


def xlam_row(number: int) -> dict[str, Any]:
    parameters = {
        "city": {"description": "where", "type": "str", "default": "Paris"},
        "days": {"description": "how many", "type": "List[int]"},
        "unit": {"description": "", "type": "str, optional"},
    }
    return {
        "id": number,
        "query": question(number),
        "tools": json.dumps([{"name": f"tool_{number // 2}", "description": "d", "parameters": parameters}]),
        "answers": json.dumps([{"name": f"tool_{number // 2}", "arguments": {"days": [number]}}]),
    }


ROWS: dict[str, Any] = {
    "xlam": xlam_row,
    "camel-biology": lambda i: {
        "role_1": "Biologist",
        "topic;": f"topic {i % 3}",
        "sub_topic": "s",
        "message_1": question(i),
        "message_2": f"answer {i}",
    },
    "alpaca-zh": lambda i: {
        "instruction": f"请解释第{i * 7919}号物质{i * 104729}",
        "input": "" if i % 2 else f"输入{i}",
        "output": f"回答{i}",
    },
    "dolly": lambda i: {"instruction": question(i), "context": "", "response": f"answer {i}", "category": "open_qa"},
}


def local(folder: Path, name: str, count: int = 80, extra: list[dict[str, Any]] | None = None) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [ROWS[name](i) for i in range(count)] + (extra or [])
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(folder)


def entries(name: str) -> list[Any]:
    return [*read_side(name, "train"), *read_side(name, "heldout")]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_makes_a_pack_of_its_datasets_form(name: str, tmp_path: Path):
    info = fetch_preset(f"hub:{name}", folder=local(tmp_path / "set", name))
    preset = PRESETS[name]
    assert (info["read"], info["kept"]) == (80, 80)
    assert info["licence"] == preset.licence
    assert preset.dataset in info["attribution"]
    (row,) = info["counts"]
    assert (row["domain"], row["scenario"]) == (preset.domain, "curated")
    assert row["train"] > row["heldout"] > 0
    assert row["train_with_reference"] + row["heldout_with_reference"] == 80
    assert f"hub:{name}" in fetched_packs()
    prompts = read_prompts([PromptSource(path=f"pack:{preset.domain}/curated")]).prompts
    assert len(prompts) == row["train"]


def test_what_a_row_becomes():
    content = preset_rows.xlam(xlam_row(7))
    assert content["messages"] == [{"role": "user", "content": question(7)}]
    assert content["reference"] == '{"name": "tool_3", "arguments": {"days": [7]}}'
    several = xlam_row(7) | {
        "answers": json.dumps([{"name": "a", "arguments": {}}, {"name": "b", "arguments": {"x": 1}}])
    }
    assert json.loads(preset_rows.xlam(several)["reference"]) == [
        {"name": "a", "arguments": {}},
        {"name": "b", "arguments": {"x": 1}},
    ]
    assert "reference" not in preset_rows.xlam(xlam_row(7) | {"answers": "[]"})
    assert preset_rows.camel(ROWS["camel-biology"](4))["group"] == "topic 1"
    assert preset_rows.alpaca({"instruction": "a", "input": " b ", "output": "c"})["messages"][0]["content"] == "a\nb"
    assert (
        preset_rows.dolly({"instruction": "a", "context": "b", "response": "c"})["messages"][0]["content"] == "a\n\nb"
    )


def test_pythons_types_become_a_json_schema():
    (tool,) = preset_rows.xlam(xlam_row(0))["tools"]
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where", "default": "Paris"},
            "days": {"type": "array", "items": {"type": "integer"}, "description": "how many"},
            "unit": {"type": "string"},
        },
        "required": ["days"],
    }


@pytest.mark.parametrize(
    ("spelling", "schema"),
    [
        ("int", {"type": "integer"}),
        ("Optional[float]", {"type": "number"}),
        ("bool, default True", {"type": "boolean"}),
        ("Dict[str, int]", {"type": "object"}),
        ("List[List[str]], optional", {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        ("Tuple[int, str]", {"type": "array", "items": {"type": "integer"}}),
        ("list", {"type": "array", "items": {}}),
        ("Union[str, int]", {"type": "string"}),
        ("", {"type": "string"}),
        ("set", {"type": "array", "items": {}}),
    ],
)
def test_types(spelling: str, schema: dict[str, Any]):
    created = xlam_tool({"name": "f", "parameters": {"x": {"type": spelling}}})
    assert created["function"]["parameters"]["properties"]["x"] == schema


def test_tools_that_are_a_schema_already_stay_one():
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    assert xlam_tool({"name": "f", "parameters": schema})["function"]["parameters"] == schema


def test_rows_that_no_record_can_be_made_of_are_counted(tmp_path: Path):
    bad = [xlam_row(900) | {"tools": "[oops"}, xlam_row(901) | {"answers": None}, xlam_row(902) | {"query": None}]
    info = fetch_preset("hub:xlam", folder=local(tmp_path / "set", "xlam", extra=[*bad, xlam_row(3) | {"id": 903}]))
    assert info["removed"]["no record"] == 3
    assert info["removed"]["exact duplicate"] == 1
    assert info["read"] == info["kept"] + sum(info["removed"].values()) == 84


def test_the_split_keeps_sets_of_tools_together(tmp_path: Path):
    fetch_preset("hub:xlam", folder=local(tmp_path / "set", "xlam"))
    train, heldout = ({tool_names(entry) for entry in read_side("hub:xlam", side)} for side in ("train", "heldout"))
    assert len(train) + len(heldout) == 40
    assert not train & heldout


def test_the_same_rows_give_the_same_pack_and_other_rows_take_its_place(tmp_path: Path):
    source = local(tmp_path / "set", "dolly", 40)
    fetch_preset("hub:dolly", folder=source)
    first = pack_folder("hub:dolly")
    files = {path.name: path.read_bytes() for path in first.iterdir()}
    fetch_preset("hub:dolly", folder=source)
    assert pack_folder("hub:dolly") == first
    assert {path.name: path.read_bytes() for path in first.iterdir()} == files
    fetch_preset("hub:dolly", folder=local(tmp_path / "other", "dolly", 50))
    assert describe_pack("hub:dolly")["kept"] == 50
    assert [path.name for path in packs_folder().iterdir() if path.name.startswith("hub-")] == [
        pack_folder("hub:dolly").name
    ]


def test_one_that_is_there_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fetch_preset("hub:dolly", folder=local(tmp_path / "set", "dolly"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was loaded again"))
    assert fetch_preset("hub:dolly")["kept"] == 80


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def load_dataset(name: str, *_: Any, **options: Any) -> None:
        asked.append({"name": name, **options})
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_that_cannot_be_reached_is_reported_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    asked = refusing(monkeypatch, ConnectionError("Couldn't reach 'camel-ai/biology' on the Hub (ConnectError)"))
    with pytest.raises(DraftbenchError, match="could not load camel-ai/biology from the hub") as caught:
        fetch_preset("hub:camel-biology", revision="abc123")
    assert "cannot be reached" in caught.value.why
    assert "--from FOLDER" in caught.value.fix
    assert asked[0]["name"] == "camel-ai/biology"
    assert asked[0]["revision"] == "abc123"
    assert not any(path.is_dir() for path in packs_folder().iterdir())


def test_a_gated_set_says_where_to_accept_its_terms(monkeypatch: pytest.MonkeyPatch):
    message = (
        "Dataset 'Salesforce/xlam-function-calling-60k' is a gated dataset on the Hub. "
        "You must be authenticated to access it."
    )
    refusing(monkeypatch, datasets.exceptions.DatasetNotFoundError(message))
    with pytest.raises(DraftbenchError, match="refuses access") as caught:
        fetch_preset("hub:xlam")
    assert "accept the terms" in caught.value.why
    assert "https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k" in caught.value.fix
    assert "hf auth login" in caught.value.fix


def test_another_form_is_refused_and_nothing_is_left(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.jsonl").write_text('{"question": "a", "answer": "b"}', encoding="utf-8")
    with pytest.raises(DraftbenchError, match="does not have the columns instruction, response") as caught:
        fetch_preset("hub:dolly", folder=str(tmp_path / "set"))
    assert "question" in caught.value.what
    half = tmp_path / "half"
    half.mkdir()
    (half / "data.jsonl").write_text('{"instruction": "a", "answer": "b"}', encoding="utf-8")
    with pytest.raises(DraftbenchError, match="none of 1 rows"):
        fetch_preset("hub:dolly", folder=str(half))
    assert not any(path.is_dir() for path in packs_folder().iterdir())


def test_wrong_names_and_options_are_refused_before_anything_is_loaded(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="unknown preset 'hub:xlan'") as caught:
        find_preset("hub:xlan")
    assert "did you mean 'hub:xlam'" in caught.value.fix
    with pytest.raises(DraftbenchError, match="for one hub preset"):
        fetch_packs(["bfcl"], folder=str(tmp_path))
    with pytest.raises(DraftbenchError, match="for one hub preset"):
        fetch_packs(["hub:xlam", "hub:dolly"], revision="main")


def test_the_commands_know_presets(tmp_path: Path, draftbench: Draftbench):
    assert [row["name"] for row in list_packs() if row["name"].startswith("hub:")] == [
        f"hub:{name}" for name in PRESETS
    ]
    shown = draftbench("data", "fetch", "hub:dolly", "--from", local(tmp_path / "set", "dolly"))
    assert shown.code == 0, shown.err
    assert "CC BY-SA 3.0" in shown.out
    assert "pack:general/curated" in shown.out
    assert draftbench("data", "show", "hub:dolly").code == 0
    report = {row["name"]: row["fetched"] for row in draftbench("data", "list", "--json").json()}
    assert (report["hub:dolly"], report["hub:xlam"]) == (True, False)
    wrong = draftbench("data", "fetch", "hub:doly")
    assert (wrong.code, "did you mean" in wrong.err) == (2, True)
