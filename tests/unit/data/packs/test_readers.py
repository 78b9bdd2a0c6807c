"""What each reader makes of its package, on archives of a few records made here in the packages' layout."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.config.schema import PromptSource
from engine.data.packs import bfcl, evals, jionlp, llamafactory, pyserini
from engine.data.packs.biology import is_biology
from engine.data.packs.entry import Entry
from engine.data.records import to_prompt


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "made-1.0-py3-none-any.whl"
    path.write_bytes(zip_bytes(files))
    return path


def by_id(entries: list[Entry]) -> dict[str, Entry]:
    for entry in entries:
        to_prompt(entry, PromptSource(path="x"), "none")  # raises unless it is a prompt
    return {entry["id"]: entry for entry in entries}


# --- bfcl ---


def bfcl_files(**sets: tuple[list[Any], list[Any]]) -> dict[str, bytes]:
    names = [*bfcl._ANSWERED, *bfcl._UNANSWERED]
    files = {f"bfcl_eval/data/BFCL_v4_{name}.json": lines(*sets.get(name, ([], []))[0]) for name in names}
    answers = {name: lines(*sets.get(name, ([], []))[1]) for name in bfcl._ANSWERED}
    return files | {f"bfcl_eval/data/possible_answer/BFCL_v4_{name}.json": result for name, result in answers.items()}


def bfcl_row(identity: str, *functions: dict[str, Any]) -> dict[str, Any]:
    question = [[{"role": "user", "content": "What shall I do?"}]]
    return {"id": identity, "question": question, "function": list(functions)}


FUNCTION = {
    "name": "geo.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "float", "optional": True},
            "where": {"type": "tuple", "items": {"type": "any"}},
            "more": {"type": "dict", "properties": {"deep": {"type": "float"}}},
            "unit": {"type": "String"},
        },
        "required": ["base", "gone"],
    },
}


def test_types_become_those_of_json_schema_at_every_depth():
    parameters = bfcl.as_tool(FUNCTION)["function"]["parameters"]
    assert parameters == {
        "type": "object",
        "properties": {
            "base": {"type": "number"},
            "where": {"type": "array", "items": {"type": "string"}},
            "more": {"type": "object", "properties": {"deep": {"type": "number"}}},
            "unit": {"type": "string"},
        },
        "required": ["base"],  # a required name that is no argument makes every call invalid
    }


def test_an_argument_named_type_is_no_type():
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"type": {"type": "dict"}, "items": {}}}}
    properties = bfcl.as_tool(function)["function"]["parameters"]["properties"]
    assert properties == {"type": {"type": "object"}, "items": {}}


def test_a_function_without_parameters_still_has_a_schema():
    assert bfcl.as_tool({"name": "f"})["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("truth", "arguments"),
    [
        ({"base": [10, 10.0], "unit": ["cm", ""]}, {"base": 10}),  # "" among the permitted: may be left out
        ({"base": ["", 10]}, {"base": 10}),  # required, so it stays
        ({"base": [1], "where": [["a", "b"]]}, {"base": 1, "where": ["a", "b"]}),
        ({"base": [1], "more": [{"deep": [2, 3], "rest": ["", 1]}]}, {"base": 1, "more": {"deep": 2}}),
        ({"base": [1], "where": [[{"deep": [5]}]]}, {"base": 1, "where": [{"deep": 5}]}),
    ],
)
def test_the_reference_is_the_first_permitted_value_of_each_argument(truth: Any, arguments: Any):
    assert bfcl.as_calls([{"geo.area": truth}], [bfcl.as_tool(FUNCTION)]) == [
        {"name": "geo.area", "arguments": arguments}
    ]


def test_a_truth_that_its_own_schema_refuses_gives_no_reference():
    assert bfcl.as_calls([{"geo.area": {"unit": ["cm"]}}], [bfcl.as_tool(FUNCTION)]) == []


def test_bfcl_live_sets_are_historical_and_irrelevant_queries_have_no_reference(tmp_path: Path):
    call = {"geo.area": {"base": [1]}}
    archive = wheel(
        tmp_path,
        bfcl_files(
            live_simple=([bfcl_row("live_1", FUNCTION)], [{"id": "live_1", "ground_truth": [call]}]),
            parallel=([bfcl_row("parallel_1", FUNCTION)], [{"id": "parallel_1", "ground_truth": [call, call]}]),
            irrelevance=([bfcl_row("irrelevance_1", FUNCTION)], []),
        ),
    )
    prompt_set = by_id(list(bfcl.read(archive)))
    assert prompt_set["bfcl-live_1"]["scenario"] == "historical"
    assert prompt_set["bfcl-parallel_1"]["scenario"] == "curated"
    assert json.loads(prompt_set["bfcl-live_1"]["reference"]) == {"name": "geo.area", "arguments": {"base": 1}}
    assert len(json.loads(prompt_set["bfcl-parallel_1"]["reference"])) == 2
    assert "reference" not in prompt_set["bfcl-irrelevance_1"]


# --- llamafactory ---


def turn(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


TOOLS = json.dumps([{"name": "look", "parameters": {"type": "object", "properties": {}}}])
CALL = '{"name": "look", "arguments": {"at": 1}}'


@pytest.fixture
def llama(tmp_path: Path) -> dict[str, Entry]:
    glaive = [
        {"conversations": [turn("human", "Look!"), turn("function_call", CALL)], "tools": TOOLS},
        {
            "conversations": [
                turn("human", "Help me."),
                turn("gpt", "How?"),
                turn("human", "Look."),
                turn("function_call", CALL),
                turn("observation", "{}"),
                turn("gpt", "Done."),
            ],
            "tools": TOOLS,
        },
        {"conversations": [turn("human", "Order a pizza."), turn("gpt", "I cannot.")], "tools": TOOLS},
        {"conversations": [turn("human", "Hello there."), turn("gpt", "Hello."), turn("human", "x")], "tools": "[]"},
    ]
    reason = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "value": "Reason first."}]},
            {"role": "user", "content": [{"type": "text", "value": "Two looks"}]},
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "value": "hm"}, *[{"type": "tool_call", "value": CALL}] * 2],
            },
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "look", "parameters": {"type": "dict"}}}]),
    }
    preferred = {"conversations": [turn("system", "Be kind."), turn("human", "你好吗")], "chosen": turn("gpt", "好")}
    message = {"role": "assistant", "content": "Said."}
    asked = {"role": "user", "content": "What does a ribosome do?"}
    files = {
        "glaive_toolcall_en_demo.json": json.dumps(glaive),
        "glaive_toolcall_zh_demo.json": json.dumps(glaive),
        "reason_tool_use_demo_50.jsonl": json.dumps(reason),
        "alpaca_zh_demo.json": json.dumps([{"instruction": "翻译", "input": "cat", "output": "输出：猫"}]),
        "dpo_zh_demo.json": json.dumps([preferred]),
        "dpo_en_demo.json": json.dumps([preferred]),
        "kto_en_demo.json": json.dumps(
            [{"messages": [asked, message], "label": True}, {"messages": [asked, message], "label": False}]
        ),
    }
    path = tmp_path / "llamafactory-0.9.5.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"llamafactory-0.9.5/data/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return by_id(list(llamafactory.read(path)))


def test_a_conversation_with_tools_ends_where_the_first_call_begins(llama: dict[str, Entry]):
    at_once, later, refused, without = (llama[f"llamafactory-glaive_toolcall_en_demo-{n}"] for n in range(4))
    assert (len(at_once["messages"]), json.loads(at_once["reference"])) == (1, json.loads(CALL))
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "user"]
    assert json.loads(later["reference"]) == json.loads(CALL)
    assert refused["reference"] == "I cannot."
    assert at_once["tools"][0]["function"]["name"] == "look"
    assert (without["domain"], without["reference"], "tools" in without) == ("general", "Hello.", False)


def test_translated_tool_calls_are_left_out_and_translated_talk_is_chinese(llama: dict[str, Entry]):
    translated = [entry for name, entry in llama.items() if "toolcall_zh" in name]
    assert [entry["domain"] for entry in translated] == ["chinese"]


def test_several_calls_are_an_array_and_the_reasoning_is_left_out(llama: dict[str, Entry]):
    result = llama["llamafactory-reason_tool_use_demo_50-0"]
    assert json.loads(result["reference"]) == [json.loads(CALL)] * 2
    assert [m["role"] for m in result["messages"]] == ["user"]
    assert result["tools"][0]["function"]["parameters"]["type"] == "object"


def test_instructions_with_input_preferred_and_desirable_answers(llama: dict[str, Entry]):
    alpaca = llama["llamafactory-alpaca_zh_demo-0"]
    assert (alpaca["messages"][0]["content"], alpaca["reference"]) == ("翻译\ncat", "猫")
    assert llama["llamafactory-dpo_zh_demo-0"]["messages"][0] == {"role": "system", "content": "Be kind."}
    assert llama["llamafactory-kto_en_demo-0"]["domain"] == "biology"
    assert "llamafactory-kto_en_demo-1" not in llama


# --- pyserini ---


def test_topics_are_read_out_of_the_jar_inside_the_wheel(tmp_path: Path):
    topics = dict.fromkeys((topic.member for topic in pyserini._TOPICS), b"")
    topics |= {name: gzip.compress(b"") for name in topics if name.endswith(".gz")}
    topics["topics.nq.dev.txt"] = b"who sang it\t['A\\'s B', 'C']\nwhat is a ribosome\t[]\r\n"
    topics["topics.dpr.wq.test.txt"] = lines({"question": "what do they speak?", "answer": ["X"]})
    topics["topics.mrtydi-v1.1-en.test.txt.gz"] = gzip.compress(b"4447\tDo zebra finches have stripes?\n")
    topics["topics.miracl-v1.0-zh-dev.tsv"] = "17#0\t复旦大学在哪个城市？\n".encode()
    jar = zip_bytes({f"topics-and-qrels/{name}": content for name, content in topics.items()})
    archive = wheel(tmp_path, {pyserini._JAR: jar})
    prompt_set = by_id(list(pyserini.read(archive)))
    assert {name: (entry["domain"], entry.get("reference")) for name, entry in prompt_set.items()} == {
        "pyserini-nq-dev-0": ("general", "A's B"),
        "pyserini-nq-dev-1": ("biology", None),
        "pyserini-wq-test-0": ("general", None),
        "pyserini-mrtydi-test-4447": ("general", None),
        "pyserini-miracl-zh-dev-17#0": ("chinese", None),
    }
    assert {entry["scenario"] for entry in prompt_set.values()} == {"historical"}
    assert list(tmp_path.iterdir()) == [archive]  # the jar is not left beside it


@pytest.mark.parametrize(
    ("text", "biological"),
    [
        ("where are the mitochondria located in the sperm", True),
        ("what is the function of white blood cells", True),
        ("How is osmosis achieved?", True),
        ("who sings my heart will go on", False),
        ("who played the bacteria in the movie osmosis jones", False),
        ("where is the largest nuclear power plant", False),
        ("who invented the cell phone", False),
        ("when was the general store opened", False),
    ],
)
def test_biology_is_recognised_by_its_words(text: str, biological: bool):
    assert is_biology(text) is biological


# --- evals ---


def asked(text: str, ideal: Any) -> dict[str, Any]:
    return {"input": [{"role": "system", "content": "s"}, {"role": "user", "content": text}], "ideal": ideal}


def test_evals_gives_basic_science_and_parables_with_the_right_choice(tmp_path: Path):
    medical = [
        asked("Subject: Anatomy\n\nWhich bone?\n\na) Femur\nb) Tibia", "b) Tibia"),
        asked("Subject: Surgery\n\nWhich knife?\n\na) X\nb) Y", "a) X"),
    ]
    quartz = [
        asked("More predators means that prey are\n\n A: more\n B: fewer", "B"),
        asked("More resistors: the current\n\n A: rises\n B: falls", "B"),
    ]
    parable = (
        "有人守株待兔。\nWhich moral is this story attempting to convey? Please respond.\n"
        'A) 要勤劳。 B) 不要 C) 之类。\nThe output should look like "My reasoning". The final answer is: A'
    )
    folder = "evals/registry/data"
    archive = wheel(
        tmp_path,
        {
            f"{folder}/medmcqa/samples.jsonl": lines(*medical),
            f"{folder}/quartz/samples.jsonl": lines(*quartz),
            f"{folder}/parable-to-moral-match/parable-to-moral-match-zh.jsonl": lines(
                asked(parable, ["The final answer is: A"])
            ),
        },
    )
    prompt_set = by_id(list(evals.read(archive)))
    assert {name: entry["reference"] for name, entry in prompt_set.items()} == {
        "evals-medmcqa-0": "The correct answer is b) Tibia.",
        "evals-quartz-0": "The correct answer is B: fewer.",
        "evals-parable-zh-0": "要勤劳。",
    }
    assert prompt_set["evals-parable-zh-0"]["messages"][0]["content"] == "有人守株待兔。\n\n这则故事说明了什么道理？"
    assert prompt_set["evals-medmcqa-0"]["messages"][0]["content"].startswith("Which bone?")


# --- jionlp ---


def test_jionlp_gives_questions_idioms_by_use_and_sayings_with_their_second_half(tmp_path: Path):
    folder = "jionlp/dictionary"
    questions = [
        {"question_type": "【知识问答】", "correct_answer": "notes", "question": " 为什么？ "},
        {"question_type": "【社会伦理】", "correct_answer": "", "question": "怎么害人？"},
    ]
    files = {f"{folder}/jionlp_LLM_test/{name}.json": b"" for name in jionlp._TESTS}
    files[f"{folder}/jionlp_LLM_test/{jionlp._TESTS[0]}.json"] = lines(*questions)
    idioms = "".join(f"成语{n}\t{n}\n" for n in range(400))
    files[f"{folder}/chinese_idiom.zip"] = zip_bytes({"chinese_idiom.txt": idioms.encode()})
    sayings = "一个模子出来的\t一个样\n一个模子出来的\t一模一样\n一丈厚的烧饼\t吃不透\n"
    files[f"{folder}/xiehouyu.zip"] = zip_bytes({"xiehouyu.txt": sayings.encode()})
    prompt_set = by_id(list(jionlp.read(wheel(tmp_path, files))))
    groups = [entry["group"] for entry in prompt_set.values()]
    assert (groups.count("question"), groups.count("idiom"), groups.count("saying")) == (1, 300, 2)
    assert "jionlp-idiom-成语399" in prompt_set
    assert "jionlp-idiom-成语99" not in prompt_set  # the least used
    assert prompt_set["jionlp-saying-一个模子出来的"]["reference"] == "一个模子出来的——一个样。"
    question = prompt_set[f"jionlp-{jionlp._TESTS[0]}-0"]
    assert question["messages"][0]["content"] == "为什么？"
    assert "reference" not in question  # the file's answers are notes for whoever marks them
