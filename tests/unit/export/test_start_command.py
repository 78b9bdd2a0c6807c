"""The command and the file that start each server, run by a shell as far as the server's own program."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from engine.export.preflight import EXPORTED_FOR
from engine.export.start_command import (
    HERE,
    HERE_IN_JSON,
    Serving,
    request_note,
    script,
    shell,
    start_command,
    tensorrt_settings,
)

PAIR = Serving(gamma=3, proposals="argmax", dtype="bfloat16", context_tokens=2048)
ADAPTED = replace(PAIR, adapter=f"{HERE}/adapter", adapter_rank=8)
PROGRAMS = {"vllm": "vllm", "sglang": "python", "llama.cpp": "llama-server", "tensorrt-llm": "trtllm-serve"}


def flags(server: str, serving: Serving) -> dict[str, str]:
    """The flags of a command with their values."""
    return {line[0]: line[1] if len(line) > 1 else "" for line in start_command(server, serving)[1:]}


def test_vllm_gets_its_settings_as_json():
    given = flags("vllm", PAIR)
    assert json.loads(given["--speculative-config"]) == {
        "method": "draft_model",
        "model": HERE_IN_JSON,
        "num_speculative_tokens": 3,
        "draft_sample_method": "greedy",
    }
    assert (given["--max-model-len"], given["--dtype"]) == ("2048", "bfloat16")
    assert "--tensor-parallel-size" not in given
    sampled = Serving(gamma=2, proposals="sampled", dtype="float16", tensor_parallel=2)
    config = json.loads(flags("vllm", sampled)["--speculative-config"])
    assert config["draft_sample_method"] == "probabilistic"
    assert flags("vllm", sampled)["--tensor-parallel-size"] == "2"


def test_vllm_loads_an_adapter_apart_with_a_rank_that_it_provides_for():
    given = flags("vllm", Serving(3, "argmax", "bfloat16", adapter=f"{HERE}/adapter", adapter_rank=12))
    assert json.loads(given["--lora-modules"]) == {"name": "tuned", "path": f"{HERE_IN_JSON}/adapter"}
    assert (given["--enable-lora"], given["--max-lora-rank"]) == ("", "16")


def test_sglang_counts_the_verified_token_too():
    given = flags("sglang", PAIR)
    assert (given["--speculative-num-steps"], given["--speculative-num-draft-tokens"]) == ("3", "4")
    assert (given["--speculative-algorithm"], given["--speculative-eagle-topk"]) == ("STANDALONE", "1")


def test_llama_cpp_is_asked_for_the_draft_and_for_the_sampling_that_was_measured():
    given = flags("llama.cpp", Serving(3, "argmax", "bfloat16", top_k=20, top_p=0.9))
    assert (given["--spec-type"], given["--spec-draft-n-max"], given["--spec-draft-p-min"]) == (
        "draft-simple",
        "3",
        "0",
    )
    assert (given["--top-k"], given["--top-p"], given["--min-p"]) == ("20", "0.9", "0")
    assert "--draft-max" not in given


def test_tensorrt_reads_its_settings_from_a_file():
    settings = yaml.safe_load(tensorrt_settings(PAIR, "/models/a draft"))
    assert settings["speculative_config"] == {
        "decoding_type": "Draft_Target",
        "max_draft_len": 3,
        "speculative_model": "/models/a draft",
    }


HOSTILE = [
    'my $(touch pwned) "7B"',
    "`touch pwned`",
    "it's; touch pwned #",
    "two\nlines\ntouch pwned",
    '}"; touch pwned; : "${1',
    "-rf",
    "back\\slash \\",
    '"""\nopen("pwned", "w")\n"""',
    "@TARGET@ @HERE@",
    "ünï \U0001f600",
]
NOT_UTF8 = os.fsdecode(b"caf\xe9 $(touch pwned)")
SHELL_SERVERS = [server for server in EXPORTED_FOR if server != "transformers"]


@dataclass
class Started:
    """A script in a folder of its own, with a program on the path that prints what it was given."""

    folder: Path
    workplace: Path
    programs: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        call = ["sh", str(self.folder / "serve.sh"), *arguments]
        return self._called(call)

    def pasted(self, command: str) -> list[str]:
        return given(self._called(["sh", "-c", command]))

    def _called(self, call: list[str]) -> subprocess.CompletedProcess[bytes]:
        environment = {"PATH": f"{self.programs}:{os.environ['PATH']}"}
        return subprocess.run(call, capture_output=True, cwd=self.workplace, env=environment, check=False)


def given(ended: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert ended.returncode == 0, ended.stderr
    return [os.fsdecode(argument) for argument in ended.stdout.split(b"\0")[:-1]]


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., Started]:
    def written(server: str, place: str | None, needs: str = "a folder", name: str = "a draft's folder") -> Started:
        made = Started(tmp_path / name, tmp_path / "work", tmp_path / "bin")
        for folder in (made.folder, made.workplace, made.programs):
            folder.mkdir()
        file, text = script(server, ADAPTED if server == "vllm" else PAIR, target=place, needs=needs)
        (made.folder / file).write_text(text, encoding="utf-8")
        program = made.programs / PROGRAMS[server]
        program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n", encoding="utf-8")
        program.chmod(0o755)
        return made

    return written


@pytest.mark.parametrize("server", SHELL_SERVERS)
@pytest.mark.parametrize("place", [None, f"{HERE}/target", "org/name"])
def test_the_script_starts_the_program_from_wherever_it_is_called(
    server: str, place: str | None, started: Callable[..., Started]
):
    made = started(server, place)
    if place is None:
        for arguments in ((), ("",), ("--extra",)):
            refused = made.run(*arguments)
            assert (refused.returncode, refused.stderr) == (2, b"give the target: a folder\n")
    else:
        serving = ADAPTED if server == "vllm" else PAIR
        target = place.replace(HERE, str(made.folder))
        shown = shell(start_command(server, serving), here=str(made.folder), target=target)
        assert given(made.run()) == given(made.run("")) == made.pasted(shown)
        assert given(made.run("--extra")) == [*made.pasted(shown), "--extra"]
    arguments = given(made.run("my target", "--extra", "1"))
    assert "my target" in arguments
    assert arguments[-2:] == ["--extra", "1"]
    assert any(str(made.folder) in word for word in arguments)


@pytest.mark.parametrize("server", SHELL_SERVERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_target_is_run(server: str, name: str, started: Callable[..., Started]):
    for place in (None, f"{HERE}/{name}", name):
        made = started(server, place, needs=f"{name}, a folder", name=f"export-{place is None}-{place == name}")
        script_text = (made.folder / "serve.sh").read_text(encoding="utf-8")
        assert subprocess.run(["sh", "-n"], input=script_text, text=True, check=False).returncode == 0
        ended = made.run()
        if place is None:
            assert (ended.returncode, ended.stderr.decode()) == (2, f"give the target: {name}, a folder\n")
        elif "@" not in name:
            assert place.replace(HERE, str(made.folder)) in given(ended)
        assert list(made.workplace.iterdir()) == []
        shutil.rmtree(made.workplace), shutil.rmtree(made.programs)  # the next place has its own


@pytest.mark.parametrize("server", SHELL_SERVERS)
@pytest.mark.parametrize("name", [*HOSTILE, NOT_UTF8])
def test_no_name_of_the_folder_or_of_a_given_target_is_run(server: str, name: str, started: Callable[..., Started]):
    try:
        made = started(server, f"{HERE}/target", name=name.replace("/", "-"))
    except OSError:
        pytest.skip("the file system takes no such name")
    assert any(str(made.folder) in word for word in map(unescaped, given(made.run())))
    assert given(made.run(f"./{name}"))[-1] != name
    assert f"./{name}" in given(made.run(f"./{name}"))
    if name != NOT_UTF8:
        serving = ADAPTED if server == "vllm" else PAIR
        shown = shell(start_command(server, serving), here=str(made.folder), target=name)
        assert name in made.pasted(shown)
        assert any(str(made.folder) in word for word in map(unescaped, made.pasted(shown)))
    assert list(made.workplace.iterdir()) == []


def unescaped(word: str) -> str:
    """An argument, or the path in one of JSON."""
    if not word.startswith("{"):
        return word
    held = json.loads(word, strict=False)
    return str(held.get("model") or held["path"])


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_code_of_the_python_program(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for place in (None, f"{HERE}/{name}", name):
        file, text = script("transformers", ADAPTED, target=place, needs=f"{name}, a folder")
        tree = ast.parse(text, file)
        (assigned,) = [node for node in tree.body if isinstance(node, ast.Assign) and "ADAPTER" in ast.unparse(node)]
        constants = [node.value for node in ast.walk(assigned) if isinstance(node, ast.Constant)]
        assert sorted(map(str, constants)) == sorted([name if place else "None", "adapter"])
        ended = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and "give the" in str(node.value)
        ]
        assert ended == [f"give the target: {name}, a folder"]


def test_the_program_for_transformers_is_python():
    for place in (None, f"{HERE}/target", "org/name"):
        name, text = script("transformers", PAIR, target=place, needs="a folder")
        compile(text, name, "exec")
        assert name == "serve.py"


def test_a_cut_distribution_is_asked_for_where_the_command_cannot_say_it():
    cut = Serving(3, "argmax", "bfloat16", top_k=20, top_p=0.9)
    assert "top_k 20 and top_p 0.9" in request_note("vllm", cut)
    assert request_note("llama.cpp", cut) == request_note("vllm", PAIR) == ""
