"""The command and the file that start each server, run by a shell as far as the server's own program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.export.preflight import EXPORTED_FOR
from engine.export.start_command import HERE, Serving, request_note, script, shell, start_command, tensorrt_settings

PAIR = Serving(gamma=3, proposals="argmax", dtype="bfloat16", context_tokens=2048)
PROGRAMS = {"vllm": "vllm", "sglang": "python", "llama.cpp": "llama-server", "tensorrt-llm": "trtllm-serve"}


def flags(server: str, serving: Serving) -> dict[str, str]:
    """The flags of a command with their values."""
    return {line[0]: line[1] if len(line) > 1 else "" for line in start_command(server, serving)[1:]}


def test_vllm_gets_its_settings_as_json():
    given = flags("vllm", PAIR)
    assert json.loads(given["--speculative-config"]) == {
        "method": "draft_model",
        "model": HERE,
        "num_speculative_tokens": 3,
        "draft_sample_method": "greedy",
    }
    assert (given["--max-model-len"], given["--dtype"]) == ("2048", "bfloat16")
    assert "--tensor-parallel-size" not in given
    sampled = Serving(gamma=2, proposals="sampled", dtype="float16", tensor_parallel=2, draft_alone=True)
    config = json.loads(flags("vllm", sampled)["--speculative-config"])
    assert (config["draft_sample_method"], config["draft_tensor_parallel_size"]) == ("probabilistic", 1)
    assert flags("vllm", sampled)["--tensor-parallel-size"] == "2"


def test_vllm_loads_an_adapter_apart_with_a_rank_that_it_provides_for():
    given = flags("vllm", Serving(3, "argmax", "bfloat16", adapter=f"{HERE}/adapter", adapter_rank=12))
    assert given["--lora-modules"] == f"tuned={HERE}/adapter"
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


@pytest.mark.parametrize("server", [server for server in EXPORTED_FOR if server != "transformers"])
@pytest.mark.parametrize("place", [None, f"{HERE}/target", "org/name"])
def test_the_script_starts_the_program_from_wherever_it_is_called(server: str, place: str | None, tmp_path: Path):
    folder = tmp_path / "a draft's folder"
    folder.mkdir()
    name, text = script(server, PAIR, target=place, needs="a folder")
    (folder / name).write_text(text, encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / PROGRAMS[server]
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n", encoding="utf-8")
    program.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = ["sh", str(folder / name), *arguments]
        return subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    default = run()
    if place is None:
        assert (default.returncode != 0, "give the target" in default.stderr) == (True, True)
    else:
        shown = shell(start_command(server, PAIR), here=str(folder), target=place.replace(HERE, str(folder)))
        direct = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=environment, check=True)
        assert json.loads(default.stdout) == json.loads(direct.stdout)
    given = json.loads(run("my target", "--extra", "1").stdout)
    assert "my target" in given
    assert given[-2:] == ["--extra", "1"]
    assert any(str(folder) in word for word in given)


def test_the_program_for_transformers_is_python():
    for place in (None, f"{HERE}/target", "org/name"):
        name, text = script("transformers", PAIR, target=place, needs="a folder")
        compile(text, name, "exec")
        assert name == "serve.py"


def test_a_cut_distribution_is_asked_for_where_the_command_cannot_say_it():
    cut = Serving(3, "argmax", "bfloat16", top_k=20, top_p=0.9)
    assert "top_k 20 and top_p 0.9" in request_note("vllm", cut)
    assert request_note("llama.cpp", cut) == request_note("vllm", PAIR) == ""
