"""Schedules in each server's form, read back by the rules that the server documents for it."""

from __future__ import annotations

import json
import shlex

import pytest

from engine.catalogue import SERVERS
from engine.deploy.schedule import schedule_for

BESTS = [
    {1: 3, 2: 3, 4: 2, 8: 0},
    {1: 1},
    {1: 4, 16: 1},
    {2: 2, 8: 1},
    {1: 2, 4: 3, 8: 3},
]


def vllm_lookup(schedule: list[list[int]], most: int, max_batch: int) -> dict[int, int]:
    """vLLM's reading: both ends count, gaps and the tail keep the gamma before them, nothing above the maximum."""
    starts, ends = [s for s, _, _ in schedule], [e for _, e, _ in schedule]
    assert schedule[0][0] == 1
    assert all(1 <= start <= end for start, end, _ in schedule)
    assert all(start > end for start, end in zip(starts[1:], ends, strict=False))
    assert all(0 <= gamma <= most for *_, gamma in schedule)
    looked_up, last = {}, 0
    for size in range(1, max_batch + 1):
        last = next((gamma for start, end, gamma in schedule if start <= size <= end), last)
        looked_up[size] = last
    return looked_up


def wanted(best: dict[int, int], size: int) -> int:
    """The gamma of the smallest measured size that is not below, and of the largest beyond it."""
    return best[min((s for s in best if s >= size), default=max(best))]


@pytest.mark.parametrize("best", BESTS)
def test_vllm_reads_back_the_best_gamma_of_every_batch_size(best):
    schedule = schedule_for("vllm", best)
    flag, value = shlex.split(schedule.flags)
    settings = json.loads(value)
    assert flag == "--speculative-config"
    assert settings == schedule.settings
    most = settings["num_speculative_tokens"]
    assert most == max(best.values()) > 0
    looked_up = vllm_lookup(settings["num_speculative_tokens_per_batch_size"], most, max(best) + 4)
    assert looked_up == {size: wanted(best, size) for size in looked_up}


def test_vllm_is_asked_to_draw_where_the_prediction_is_of_drawn_proposals():
    assert "draft_sample_method" not in schedule_for("vllm", {1: 2}).settings
    assert schedule_for("vllm", {1: 2}, "sampled").settings["draft_sample_method"] == "probabilistic"


def tensorrt_lookup(schedule: dict[int, int], size: int) -> int:
    """TensorRT-LLM's reading: a gamma up to its key, none after the largest key."""
    return next((gamma for key, gamma in sorted(schedule.items()) if size <= key), 0)


@pytest.mark.parametrize("best", BESTS)
def test_tensorrt_llm_reads_back_the_best_gamma_and_what_is_cut_is_said(best):
    schedule = schedule_for("tensorrt-llm", best)
    lengths, most = schedule.settings["draft_len_schedule"], schedule.settings["max_draft_len"]
    assert lengths[min(lengths)] == most
    assert all(0 <= gamma <= most for gamma in lengths.values())
    for size in range(1, max(best) + 1):
        assert tensorrt_lookup(lengths, size) == min(wanted(best, size), most)
    assert any("cut" in note for note in schedule.notes) == (max(best.values()) > most)
    assert tensorrt_lookup(lengths, max(best) + 1) == 0


def test_tensorrt_llm_has_no_form_for_a_gamma_that_begins_with_larger_batches():
    schedule = schedule_for("tensorrt-llm", {1: 0, 4: 2})
    assert (schedule.settings, schedule.flags) == (None, "")
    assert "cannot say" in schedule.notes[0]


def sglang_lookup(config: dict[str, dict[str, list[int]]], size: int) -> list[int]:
    """SGLang's reading: the candidates of the largest key that is not above the batch size, or of the smallest key."""
    keys = sorted(int(key) for key in config)
    return config[str(max((key for key in keys if key <= size), default=keys[0]))]["candidate_steps"]


@pytest.mark.parametrize("best", BESTS)
def test_sglangs_file_reads_back_the_best_gamma_and_the_note_says_that_standalone_ignores_it(best):
    schedule = schedule_for("sglang", best)
    config = json.loads(schedule.files["adaptive.json"])
    for size in range(1, max(best) + 4):
        assert sglang_lookup(config, size) == [wanted(best, size)]
    arguments = shlex.split(schedule.flags)
    steps = int(arguments[arguments.index("--speculative-num-steps") + 1])
    assert steps == next(best[size] for size in sorted(best) if best[size])
    assert int(arguments[arguments.index("--speculative-num-draft-tokens") + 1]) == steps + 1
    assert steps in {step for entry in config.values() for step in entry["candidate_steps"]}
    assert "STANDALONE, for which SGLang has no schedule" in schedule.notes[0]


def test_llama_cpp_and_transformers_take_one_gamma_and_say_whose_it_is():
    best = {1: 3, 2: 1, 4: 0}
    llama = schedule_for("llama.cpp", best)
    assert "--spec-draft-n-max 3" in llama.flags
    assert "2: 1; 3 to 4: no draft" in llama.notes[0]
    transformers = schedule_for("transformers", best)
    assert transformers.settings["num_assistant_tokens"] == 3
    assert transformers.settings["num_assistant_tokens_schedule"] == "constant"


def test_transformers_settings_are_those_of_its_generation_config():
    from transformers import GenerationConfig

    config = GenerationConfig()
    settings = schedule_for("transformers", {1: 2}).settings
    assert config.update(**settings) == {}  # nothing that it does not know
    assert config.num_assistant_tokens == 2


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_of_the_catalogue_has_an_answer_and_none_drafts_where_nothing_pays(server):
    assert schedule_for(server, {1: 2}).server == server
    nothing = schedule_for(server, {1: 0, 8: 0})
    assert (nothing.flags, nothing.settings, dict(nothing.files)) == ("", None, {})
    assert nothing.notes


def test_a_schedule_needs_a_batch_size():
    with pytest.raises(ValueError, match="batch size"):
        schedule_for("vllm", {})
