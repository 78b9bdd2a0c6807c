"""Readers: every format gives the same prompts, and every fault is named where it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.chat.prompt import Prompt
from engine.config.schema import PromptSource
from engine.data.columns import remarks
from engine.data.readers import PromptSet, read_prompts
from engine.errors import DraftbenchError

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# Other parameters than WEATHER: side by side, Arrow fills each with the other's keys.
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
SUM = {
    "type": "function",
    "function": {"name": "sum", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Wien"}'}}
# As it is read: arguments decoded, and content beside calls.
NORMAL_CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Wien"}}}
RECORDS = [
    {"id": "one", "group": "g", "messages": [{"role": "user", "content": "Wie ist das Wetter?"}], "tools": [WEATHER]},
    {"id": "two", "messages": [{"role": "user", "content": "现在几点？🕰"}], "tools": [CLOCK, SUM]},
    {
        "id": "three",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Wien?"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "1"},
        ],
        "tools": [WEATHER],
    },
    {"id": "four", "prompt": "plain text"},
]


def read(path: Path | str, *, skip_bad: bool = False, relative_to: Path | None = None, **source: object) -> PromptSet:
    """The prompts of one source."""
    spec = PromptSource.model_validate({"path": str(path), **source})
    return read_prompts([spec], skip_bad=skip_bad, relative_to=relative_to)


def write_lines(path: Path, *records: object) -> Path:
    """A JSON-lines file; a str is written as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def expected_prompts() -> list[Prompt]:
    return [
        Prompt(
            id=record["id"],
            messages=tuple(
                {**message, "content": "", "tool_calls": [NORMAL_CALL]} if "tool_calls" in message else message
                for message in record.get("messages", [{"role": "user", "content": record.get("prompt")}])
            ),
            tools=tuple(record.get("tools", [])),
            group=record.get("group", ""),
        )
        for record in RECORDS
    ]


# -- formats ---------------------------------------------------------------------------------


def as_jsonl(folder: Path) -> Path:
    return write_lines(folder / "x.jsonl", *RECORDS)


def as_jsonl_with_bom_and_blank_lines(folder: Path) -> Path:
    path = as_jsonl(folder)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    return path


def as_json_array(folder: Path) -> Path:
    path = folder / "x.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8-sig")
    return path


def as_json_object(folder: Path) -> Path:
    path = folder / "x.json"
    path.write_text(json.dumps({"version": 1, "data": RECORDS}))
    return path


def with_json_strings() -> list[dict[str, str]]:
    nested = ("messages", "tools")
    return [{key: json.dumps(value) if key in nested else value for key, value in r.items()} for r in RECORDS]


def as_csv(folder: Path) -> Path:
    path = folder / "x.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["id", "group", "messages", "tools", "prompt"])
        writer.writeheader()
        writer.writerows(with_json_strings())
    return path


COLUMNS = ("id", "group", "messages", "tools", "prompt")


def whole_rows(records: list[dict]) -> list[dict]:
    """`pa.Table.from_pylist` takes its columns from the first row."""
    return [{name: record.get(name) for name in COLUMNS} for record in records]


def as_parquet_of_strings(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(whole_rows(with_json_strings())), folder / "x.parquet")
    return folder / "x.parquet"


def as_parquet_of_structs(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(whole_rows(RECORDS)), folder / "x.parquet")
    return folder / "x.parquet"


def as_parquet_of_datasets(folder: Path) -> Path:
    """Datasets reads free-form objects from JSON lines as its Json type, which Parquet keeps as text."""
    import datasets

    loaded = datasets.load_dataset("json", data_files=str(as_jsonl(folder)), split="train", cache_dir=str(folder / "c"))
    loaded.to_parquet(str(folder / "x.parquet"))
    return folder / "x.parquet"


def as_saved_dataset(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(whole_rows(RECORDS)).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_saved_dataset_dict(folder: Path) -> Path:
    import datasets

    rows = whole_rows(RECORDS)
    datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows[:1])
    ).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_folder_of_jsonl(folder: Path) -> Path:
    (folder / "data").mkdir()
    write_lines(folder / "data" / "train.jsonl", *RECORDS)
    return folder / "data"


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    """`load_dataset` writes what it read to a cache: never to the user's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize(
    "write",
    [
        as_jsonl,
        as_jsonl_with_bom_and_blank_lines,
        as_json_array,
        as_json_object,
        as_csv,
        as_parquet_of_strings,
        as_parquet_of_structs,
        as_parquet_of_datasets,
        as_saved_dataset,
        as_saved_dataset_dict,
        as_folder_of_jsonl,
    ],
)
def test_every_format_gives_the_same_prompts(write, tmp_path):
    path = write(tmp_path)
    result = read(path)
    assert result.prompts == expected_prompts()
    assert result.bad == []
    (source,) = result.sources
    assert (source["path"], source["rows"], len(source["sha256"])) == (str(path), 4, 64)


def test_split_chooses_the_part_of_a_dataset_dict_and_a_wrong_one_is_named(tmp_path):
    path = as_saved_dataset_dict(tmp_path)
    assert [prompt.id for prompt in read(path, split="test").prompts] == ["one"]
    with pytest.raises(DraftbenchError, match=r"no split 'tset'[\s\S]*did you mean 'test'"):
        read(path, split="tset")


def test_folder_of_data_files_with_a_wrong_split_is_an_error(tmp_path):
    with pytest.raises(DraftbenchError, match=r"could not load .*test"):
        read(as_folder_of_jsonl(tmp_path), split="test")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"split": "test", "config": "zz", "revision": "r1"}, "split 'test' and the config 'zz' and the revision 'r1'"),
        ({"split": "test"}, "split 'test'"),
        ({"config": "zz"}, "config 'zz'"),
        ({"revision": "r1"}, "revision 'r1'"),
    ],
)
def test_settings_that_a_file_is_read_without_are_refused(tmp_path, settings: dict[str, str], what: str):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    source = PromptSource(path=str(file), **settings)
    with pytest.raises(DraftbenchError, match=f"is read without the {what} that is named") as error:
        read_prompts([source])
    assert "leave that out" in error.value.fix
    assert len(read_prompts([source], stored=True).prompts) == 1, "a run that there is already stays readable"
    assert len(read_prompts([PromptSource(path=str(file), split="train")]).prompts) == 1


def test_settings_that_a_folder_is_read_without_are_refused(tmp_path):
    import datasets

    data = datasets.Dataset.from_dict({"prompt": ["hi"]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "several"))
    (tmp_path / "files.parquet").mkdir()  # as Spark names a folder
    data.to_parquet(str(tmp_path / "files.parquet" / "train.parquet"))
    unused = [("one", "split"), *((name, "config") for name in ("one", "several"))]
    unused += [(name, "revision") for name in ("one", "several", "files.parquet")]
    for name, key in unused:
        settings = {"split": "test"} if name == "several" else {}
        with pytest.raises(DraftbenchError, match=f"is read without the {key} 'zz'"):
            read_prompts([PromptSource(path=str(tmp_path / name), **{**settings, key: "zz"})])
    assert len(read_prompts([PromptSource(path=str(tmp_path / "several"), split="test")]).prompts) == 1
    assert len(read_prompts([PromptSource(path=str(tmp_path / "files.parquet"), config="default")]).prompts) == 1


def test_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DraftbenchError, match="could not load"):
        read(tmp_path)


def test_changed_folder_is_read_again_and_has_another_hash(tmp_path):
    path = as_folder_of_jsonl(tmp_path)
    before = read(path).sources[0]["sha256"]
    write_lines(path / "train.jsonl", *RECORDS[:2])
    after = read(path)
    assert after.sources[0]["sha256"] != before
    assert len(after.prompts) == 2  # not what Datasets had cached


def test_hub_dataset_goes_through_load_dataset(monkeypatch):
    import datasets

    asked = []

    def load(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([{"question": "why?", "other": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    result = read("hub:org/name", config="c", split="test", revision="v1", prompt_column="question")
    assert asked == [("org/name", "c", "test", "v1")]
    assert [(prompt.id, prompt.text) for prompt in result.prompts] == [("name-test-1", "why?")]
    assert len(result.sources[0]["sha256"]) == 64


def test_hub_without_network_says_what_to_do(monkeypatch):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DraftbenchError) as caught:
        read("hub:nobody/nothing")
    assert "hub:nobody/nothing" in caught.value.what
    assert "network" in caught.value.fix


@pytest.mark.parametrize("name", ["hub:", "hub:../secrets", "hub:/etc", "hub:a/b/c"])
def test_hub_name_cannot_be_a_path(name):
    with pytest.raises(DraftbenchError, match="not the name of a hub dataset"):
        read(name)


def test_hub_name_that_a_local_folder_would_shadow_is_refused(tmp_path, monkeypatch):
    (tmp_path / "squad").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DraftbenchError, match="also a folder here"):
        read("hub:squad")


# -- columns, ids, limits --------------------------------------------------------------------


def test_columns_can_be_named_and_messages_win_over_prompt(tmp_path):
    path = write_lines(
        tmp_path / "x.jsonl",
        {"chat": [{"role": "user", "content": "from chat"}], "q": "from q", "functions": [CLOCK]},
        {"chat": None, "q": "from q"},
    )
    first, second = read(path, messages_column="chat", prompt_column="q", tools_column="functions").prompts
    assert (first.text, first.tools) == ("from chat", (CLOCK,))
    assert (second.text, second.tools) == ("from q", ())


def test_bad_messages_are_not_rescued_by_prompt(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"messages": [], "prompt": "good"}, {"prompt": "good"})
    result = read(path, skip_bad=True)
    assert [(row.line, row.reason) for row in result.bad] == [
        (1, "'messages' is an empty list; it must be a list of messages")
    ]


def test_ids_come_from_the_record_else_from_file_and_line(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", {"prompt": "a"}, "", {"prompt": "b", "id": 7}, {"prompt": "c", "id": ""})
    assert [prompt.id for prompt in read(path).prompts] == ["q-1", "7", "q-4"]


def test_files_of_one_name_get_ids_with_their_folder(tmp_path):
    sources = []
    for domain in ("law", "art"):
        (tmp_path / domain).mkdir()
        sources.append(PromptSource(path=str(write_lines(tmp_path / domain / "train.jsonl", {"prompt": domain}))))
    assert [prompt.id for prompt in read_prompts(sources).prompts] == ["law-train-1", "art-train-1"]


def test_duplicate_ids_are_bad_rows_within_and_between_sources(tmp_path):
    one = write_lines(tmp_path / "one.jsonl", {"id": "a", "prompt": "1"}, {"id": "a", "prompt": "2"})
    two = write_lines(tmp_path / "two.jsonl", {"id": "a", "prompt": "3"}, {"id": "b", "prompt": "4"})
    result = read_prompts([PromptSource(path=str(one)), PromptSource(path=str(two))], skip_bad=True)
    assert [prompt.text for prompt in result.prompts] == ["1", "4"]
    assert [(row.file, row.line) for row in result.bad] == [(str(one), 2), (str(two), 1)]
    assert "'a' was used before" in result.bad[0].reason


def test_limit_takes_the_first_good_prompts_and_reads_no_further(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "1"}, "broken", {"prompt": "2"}, "broken")
    assert [prompt.text for prompt in read(path, limit=1).prompts] == ["1"]
    result = read(path, limit=2, skip_bad=True)
    assert [prompt.text for prompt in result.prompts] == ["1", "2"]
    assert ([row.line for row in result.bad], result.sources[0]["rows"]) == ([2], 3)


def test_relative_path_is_found_beside_the_recipe(tmp_path):
    write_lines(tmp_path / "mine.jsonl", {"prompt": "1"})
    assert read("mine.jsonl", relative_to=tmp_path).sources[0]["path"] == "mine.jsonl"


def test_message_keys_that_are_null_are_dropped(tmp_path):
    message = {"role": "user", "content": "x", "name": None, "tool_calls": None}
    (prompt,) = read(write_lines(tmp_path / "x.jsonl", {"messages": [message]})).prompts
    assert prompt.messages == ({"role": "user", "content": "x"},)


# -- bad rows --------------------------------------------------------------------------------

GOOD_USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("[1, 2]", "must be a JSON object"),
        ('{"prompt": "torn', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ({"text": "x"}, "neither 'messages' nor 'prompt'; it has: text; prompt_column: text would read it"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "messages_column: conversations would read it"),
        (
            {"request": {"messages": [{"role": "user", "content": "x"}]}},
            "messages_column: request.messages would read it",
        ),
        ({"say": "x"}, "neither 'messages' nor 'prompt'; it has: say"),
        ({"prompt": " \n"}, "'prompt' is empty"),
        ({"prompt": 5}, "'prompt' must be text, not a number"),
        ('{"prompt": "\\ud83d"}', "half of a surrogate pair"),
        ({"prompt": "x", "id": ["a"]}, "id must be text or a number"),
        ({"prompt": "x", "id": True}, "id must be text or a number"),
        ({"messages": {"role": "user"}}, "must be a list of messages, not an object"),
        ({"messages": "not json"}, "not valid JSON"),
        ({"messages": ["hi"]}, "message 1 must be an object"),
        ({"messages": [GOOD_USER, {"role": "narrator", "content": "x"}]}, "message 2 has role 'narrator'; known:"),
        ({"messages": [{"role": "user", "content": ""}]}, r"message 1 \(user\) is empty"),
        ({"messages": [{"role": "user"}]}, r"message 1 \(user\) is missing or null"),
        ({"messages": [{"role": "user", "content": "\n "}]}, r"message 1 \(user\) is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "holds a part of type image_url"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "message 1 must be text, not an object"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, "is empty"),
        (
            {"messages": [GOOD_USER, {"role": "assistant", "tool_calls": []}, GOOD_USER]},
            "message 2 .assistant. is missing or null",
        ),
        ({"messages": [GOOD_USER, {"role": "assistant", "content": "x"}]}, "last message is from 'assistant'"),
        ({"messages": [{"role": "system", "content": "x"}]}, "last message is from 'system'"),
        ({"prompt": "x", "tools": {"name": "f"}}, "'tools' must be a list"),
        ({"prompt": "x", "tools": [{"type": "retrieval"}]}, "tool 1 is of type 'retrieval'"),
        ({"prompt": "x", "tools": ["f"]}, "tool 1 is not of the form"),
        ({"prompt": "x", "tools": [{"type": "function"}]}, "tool 1 has no 'function'"),
        (
            {"prompt": "x", "tools": [CLOCK, {"type": "function", "function": {"name": ""}}]},
            "tool 2 has no function name",
        ),
        (
            {"prompt": "x", "tools": [{"type": "function", "function": {"name": "f", "parameters": "[]"}}]},
            r"parameters of tool 1 \(f\)",
        ),
    ],
)
def test_bad_record_is_reported_with_its_line_and_reason(record, reason, tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "good"}, record)
    result = read(path, skip_bad=True)
    assert [prompt.text for prompt in result.prompts] == ["good"]
    (row,) = result.bad
    assert (row.file, row.line) == (str(path), 2)
    with pytest.raises(DraftbenchError, match=reason):
        read(path)


def test_error_lists_five_bad_rows_the_total_and_the_way_out(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "good"}, *[{"prompt": ""}] * 7)
    with pytest.raises(DraftbenchError) as caught:
        read(path)
    assert "7 of 8 rows" in caught.value.what
    assert [f"x.jsonl:{line}:" in caught.value.what for line in range(1, 9)] == [False] + [True] * 5 + [False] * 2
    assert "2 more" in caught.value.what
    assert "--skip-bad" in caught.value.fix


@pytest.mark.parametrize("cut", ['{"id": "b", "prompt": "hal', '{"id": "b", "prompt": "电'])
def test_half_written_last_line_is_one_bad_row(cut, tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "good"})
    path.write_bytes(path.read_bytes() + cut.encode()[:-1])
    result = read(path, skip_bad=True)
    assert [(len(result.prompts), row.line) for row in result.bad] == [(1, 2)]


def test_csv_counts_the_lines_where_records_start(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('id,"prompt\nof two lines"\n,"two\nlines"\n\nb,\nc,good,too many\nd\n')
    result = read(path, skip_bad=True, prompt_column="prompt\nof two lines")
    assert [(prompt.id, prompt.text) for prompt in result.prompts] == [("x-3", "two\nlines")]
    assert [row.line for row in result.bad] == [6, 7, 8]
    assert "3 fields where the header has 2" in result.bad[1].reason


def test_parquet_and_json_count_rows(tmp_path):
    records = [{"prompt": "good"}, {"prompt": ""}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(records))
    for name in ("x.parquet", "x.json"):
        result = read(tmp_path / name, skip_bad=True)
        assert [(row.line, row.reason) for row in result.bad] == [(2, "'prompt' is empty")]


def test_parquet_counts_rows_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.data.formats._BATCH_ROWS", 2)
    pq.write_table(pa.table({"prompt": ["1", "2", "3", "4", ""]}), tmp_path / "x.parquet")
    result = read(tmp_path / "x.parquet", skip_bad=True)
    assert [prompt.id for prompt in result.prompts] == ["x-1", "x-2", "x-3", "x-4"]
    assert [row.line for row in result.bad] == [5]


# -- files that cannot be used at all --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "x.jsonl is empty"),
        ("x.jsonl", b"\n \n", "x.jsonl is empty"),
        ("x.json", b"", "x.json is empty"),
        ("x.json", b"[]", "x.json is empty"),
        ("x.csv", b"", "x.csv is empty"),
        ("x.csv", b"id,prompt\n", "x.csv is empty"),
        ("x.jsonl", '{"prompt": "café"}\n'.encode("latin-1"), r"not UTF-8 text \(line 1\)"),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": "é\n'.encode("latin-1"), r"not UTF-8 text \(line 2\)"),
        ("x.jsonl", '{"prompt": "你好"}\n'.encode("utf-16"), "not UTF-8"),
        ("x.json", '[{"prompt": "café"}]'.encode("latin-1"), "not UTF-8"),
        ("x.csv", 'prompt\n"你好"\n'.encode("gb18030"), "not UTF-8"),
        ("x.json", b'[{"prompt": "a"}, ', "not valid JSON"),
        ("x.json", b'{"prompt": "a"}', "no array"),
        ("x.json", b"5", "no array"),
        ("x.json", b'{"a": [], "b": []}', r"2 arrays \(a, b\)"),
        ("x.json", b'{"messages": [{"role": "user", "content": "x"}]}', r"1 arrays \(messages\)"),
        ("x.csv", b"id;question\n1;a\n", "neither a column 'messages' nor 'prompt'; it has: id;question"),
        ("x.csv", b'prompt\ngood\n"never closed\n', "starts at line 3"),
        ("x.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("x.txt", b"hello", "extension '.txt'"),
        ("x", b"hello", "extension ''"),
    ],
)
def test_unusable_file_is_a_clear_error_even_with_skip_bad(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DraftbenchError, match=message) as caught:
        read(tmp_path / name, skip_bad=True)
    assert caught.value.fix


def test_parquet_without_the_columns_names_those_it_has(tmp_path):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(DraftbenchError, match=r"it has: question, answer[\s\S]*prompt_column"):
        read(tmp_path / "x.parquet")


def test_file_without_a_good_row_is_an_error_even_with_skip_bad(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"prompt": ""}, "{")
    with pytest.raises(DraftbenchError, match=r"no valid row \(2 bad\)[\s\S]*x.jsonl:1: 'prompt' is empty"):
        read(path, skip_bad=True)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(DraftbenchError, match="no such file"):
        read(tmp_path / "none.jsonl")


def test_sources_that_share_name_and_folder_get_ids_of_their_own(tmp_path):
    jsonl, csv = tmp_path / "train.jsonl", tmp_path / "train.csv"
    jsonl.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    csv.write_text("prompt\nc\n")
    both = read_prompts([PromptSource(path=str(jsonl)), PromptSource(path=str(csv))], skip_bad=True)
    folder = tmp_path.name
    assert [prompt.id for prompt in both.prompts] == [f"{folder}-train-1", f"{folder}-train-2", f"{folder}-train-b2-2"]
    with pytest.raises(DraftbenchError, match="used before"):
        read_prompts([PromptSource(path=str(jsonl))] * 2)


def test_files_of_a_folder_that_datasets_leaves_out_are_named(tmp_path):
    folder = tmp_path / "questions"
    folder.mkdir()
    for name in ("train.jsonl", "part2.jsonl", "test.jsonl"):
        (folder / name).write_text('{"prompt": "a"}\n')
    (info,) = read_prompts([PromptSource(path=str(folder))]).sources
    assert info["unread"] == ["part2.jsonl"]
    assert any("part2.jsonl" in line for line in remarks(info))
