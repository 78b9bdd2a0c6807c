"""Columns by dotted path in every format, what is read of other forms, and what is reported as left aside."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config.schema import PromptSource
from engine.data import formats
from engine.data.columns import remarks
from engine.data.readers import PromptSet, read_prompts
from engine.errors import DraftbenchError
from engine.tune.examples import read_examples
from engine.tune.recipe import TuneData

ASKED = [{"role": "user", "content": "Hello?"}]
FORMATS = ("x.jsonl", "x.json", "x.csv", "x.parquet", "folder")


def read(path: Path, *, skip_bad: bool = False, **columns: Any) -> PromptSet:
    return read_prompts([PromptSource(path=str(path), **columns)], skip_bad=skip_bad)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """The rows in a format; CSV has nested values as JSON text, as people write them."""
    path = folder / name
    if name == "x.jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif name == "x.json":
        path.write_text(json.dumps(rows))
    elif name == "x.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "folder":
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    else:
        flat = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(flat[0]))
            writer.writeheader()
            writer.writerows(flat)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_dotted_path_names_a_column_in_every_format(name: str, tmp_path: Path):
    rows = [{"id": str(i), "request": {"messages": ASKED, "model": "m"}, "at": "noon"} for i in range(3)]
    prompt_set = read(written(tmp_path, name, rows), messages_column="request.messages")
    assert [prompt.messages for prompt in prompt_set.prompts] == [tuple(ASKED)] * 3
    assert set(prompt_set.sources[0]["left_aside"]) == {"request.model", "at"}
    with pytest.raises(DraftbenchError, match=r"no column 'request\.mesages'"):
        read(written(tmp_path, name, rows), messages_column="request.mesages", prompt_column="at", skip_bad=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("option", "near"), [("messages_column", "mesages"), ("tools_column", "tols")])
def test_a_named_column_that_is_nowhere_is_refused_with_the_nearest(name: str, option: str, near: str, tmp_path: Path):
    rows = [{"id": str(i), "messages": ASKED, "tools": []} for i in range(2)]
    with pytest.raises(DraftbenchError, match=f"no column {near!r}") as caught:
        read(written(tmp_path, name, rows), skip_bad=True, prompt_column="id", **{option: near})
    assert f"did you mean {option.removesuffix('_column')!r}" in caught.value.fix


@pytest.mark.parametrize("name", FORMATS)
def test_rows_without_a_named_column_are_counted(name: str, tmp_path: Path):
    tool = {"type": "function", "function": {"name": "f"}}
    rows = [{"messages": ASKED, "offered": [tool]}, {"messages": ASKED}]
    prompt_set = read(written(tmp_path, name, rows), tools_column="offered")
    assert prompt_set.sources[0]["missing"] == {"offered": 1}
    assert [len(prompt.tools) for prompt in prompt_set.prompts] == [1, 0]
    assert "1 rows have no 'offered'" in remarks(prompt_set.sources[0])


@pytest.mark.parametrize("name", FORMATS)
def test_sharegpt_and_alpaca_are_read_whole_in_every_format(name: str, tmp_path: Path):
    turns = [{"from": "human", "value": "Where?"}]
    (chat,) = read(
        written(tmp_path, name, [{"conversations": turns, "system": "Be brief."}]), messages_column="conversations"
    ).prompts
    assert chat.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"})
    rows = [{"instruction": "Sum up.", "input": "A text.", "output": "T.", "history": [["Hi", "Hello"]]}]
    (tmp_path / "more").mkdir()
    prompt_set = read(written(tmp_path / "more", name, rows), prompt_column="instruction")
    assert [m["content"] for m in prompt_set.prompts[0].messages] == ["Hi", "Hello", "Sum up.\nA text."]
    assert prompt_set.sources[0]["left_aside"] == ["output"]


def test_a_system_column_that_contradicts_the_messages_is_a_bad_row(tmp_path: Path):
    messages = [{"role": "system", "content": "Be brief."}, *ASKED]
    rows = [{"messages": messages, "system": system} for system in ("Be brief.", "", "Be long.")]
    prompt_set = read(written(tmp_path, "x.jsonl", rows), skip_bad=True)
    assert [len(prompt.messages) for prompt in prompt_set.prompts] == [2, 2]
    assert "says something else" in prompt_set.bad[0].reason


def test_tools_and_system_beside_the_messages_of_a_request_are_read(tmp_path: Path):
    tool = {"name": "f", "input_schema": {"type": "object"}}
    row = {"request": {"messages": ASKED, "tools": [tool], "system": [{"type": "text", "text": "Be brief."}]}}
    (prompt,) = read(written(tmp_path, "x.jsonl", [row]), messages_column="request.messages").prompts
    assert (prompt.tools[0]["function"]["name"], prompt.messages[0]["role"]) == ("f", "system")


def test_types_of_arrow_become_those_of_json(tmp_path: Path):
    schema = pa.map_(pa.string(), pa.decimal128(6, 2))
    table = pa.table(
        {
            "id": pa.array([datetime.datetime(2026, 1, 31, 12), None], pa.timestamp("ns")),
            "prompt": pa.array([b"one", b"two"], pa.binary()),
            "group": pa.array(["a", "b"]).dictionary_encode(),
            "tools": pa.array(
                [[{"name": "f", "parameters": [("maximum", decimal.Decimal("2.50"))]}], None],
                pa.list_(pa.struct({"name": pa.string(), "parameters": schema})),
            ),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    one, two = read(tmp_path / "x.parquet").prompts
    assert (one.id[:19], one.text, one.group, two.id) == ("2026-01-31T12:00:00", "one", "a", "x-2")
    assert one.tools[0]["function"]["parameters"] == {"maximum": 2.5}
    pq.write_table(pa.table({"prompt": pa.array([b"\xff", b"good"], pa.binary())}), tmp_path / "x.parquet")
    assert [row.reason for row in read(tmp_path / "x.parquet", skip_bad=True).bad] == [
        "holds bytes that are not UTF-8 text"
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "a", "prompt": "b"}', "has the key 'prompt' twice"),
        ('{"prompt": "a", "meta": {"n": 1, "n": 2}}', "has the key 'n' twice"),
        ('{"prompt": "a", "n": ' + "7" * 4400 + "}", "an integer of 4,400 digits"),
        ('{"prompt": "a", "n": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
        ('{"messages": [{"role": "user", "content": "a", "weight": NaN}]}', "cannot be written as JSON"),
        ('{"messages": [{"role": "user", "content": "a", "weight": 1e999}]}', "cannot be written as JSON"),
        ('{"prompt": "' + "a" * (17 * 1024**2) + '"}', "longer than 16,777,216"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_spoilt_record_is_one_bad_row(row: str, reason: str, name: str, tmp_path: Path):
    good = '{"prompt": "good", "id": NaN}'
    (tmp_path / name).write_text("\n".join([good, row]) if name == "x.jsonl" else f"[{good}, {row}]")
    prompt_set = read(tmp_path / name, skip_bad=True)
    assert [(p.text, p.id) for p in prompt_set.prompts] == [("good", "x-1")]
    (bad,) = prompt_set.bad
    assert reason in bad.reason or (name == "x.json" and "at most 4,194,304 are read" in bad.reason)


def test_a_column_twice_is_refused(tmp_path: Path):
    (tmp_path / "x.csv").write_text("prompt,prompt\na,b\n")
    with pytest.raises(DraftbenchError, match="column 'prompt' twice"):
        read(tmp_path / "x.csv")


def test_a_long_field_of_csv_is_read(tmp_path: Path):
    (tmp_path / "x.csv").write_text("prompt\n" + "a" * 200_000 + "\n")
    assert len(read(tmp_path / "x.csv").prompts[0].text) == 200_000


def test_a_line_that_never_ends_is_refused_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "_MAX_LINE_BYTES", 100)
    monkeypatch.setattr(formats, "_MAX_SKIPPED_BYTES", 1000)
    (tmp_path / "x.jsonl").write_text("a" * 300 + '\n{"prompt": "good"}\n')
    assert [row.line for row in read(tmp_path / "x.jsonl", skip_bad=True).bad] == [1]
    (tmp_path / "x.jsonl").write_text("a" * 2000)
    with pytest.raises(DraftbenchError, match="a line of more than 1,000 bytes"):
        read(tmp_path / "x.jsonl", skip_bad=True)


@pytest.mark.parametrize("kind", ["fifo", "device", "system", "loop"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet", "folder"])
def test_only_regular_files_hold_prompts(kind: str, name: str, tmp_path: Path):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        path = path / "x.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "system": "/proc/self/environ", "loop": path}[kind])
    with pytest.raises(DraftbenchError):
        read(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_tuning_reads_the_reference_in_every_format(name: str, tmp_path: Path):
    rows = [{"messages": ASKED, "reference": "Hi."}]
    source = PromptSource(path=str(written(tmp_path, name, rows)))
    (example,), _, unanswered = read_examples([source], TuneData(train="a", heldout="b"), None)
    assert (example.reference, unanswered) == ("Hi.", 0)
