"""Each form is recognised by its content and read into the same counts, whatever the file is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.deploy.readers.documents import document
from engine.deploy.readers.forms import FORMS, read_documents, read_files
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals, added
from tests.unit.deploy.readers import recorded
from tests.unit.deploy.readers.recorded import as_file, changed

ANSWERS: dict[str, tuple[list[dict[str, Any]], RoundTotals, str, int | None]] = {
    "vllm": ([recorded.VLLM], recorded.VLLM_COUNTS, "vllm", 3),
    "sglang": ([recorded.SGLANG], recorded.SGLANG_COUNTS, "sglang", None),
    "llama.cpp": ([recorded.LLAMA_CPP], recorded.LLAMA_CPP_COUNTS, "llama.cpp", None),
    "tensorrt-llm": ([recorded.TENSORRT], recorded.TENSORRT_COUNTS, "tensorrt-llm", None),
    "lm-studio": ([recorded.LM_STUDIO], recorded.LM_STUDIO_COUNTS, "lm-studio", None),
    "aiperf": ([recorded.AIPERF], recorded.TENSORRT_COUNTS, "tensorrt-llm", 3),
    "vllm-bench": ([recorded.VLLM_BENCH], recorded.VLLM_BENCH_COUNTS, "vllm", 3),
}


@pytest.mark.parametrize("form", ANSWERS)
def test_a_recorded_answer_is_recognised_and_its_counts_are_those_of_the_record(form: str):
    values, counts, server, gamma = ANSWERS[form]
    reading, recognised = read_documents([as_file(*values)])
    assert (recognised, reading.totals, reading.server, reading.gamma) == (form, counts, server, gamma)


@pytest.mark.parametrize("form", [name for name in ANSWERS if name != "vllm-bench"])
def test_several_answers_are_added_and_kept_one_by_one(form: str):
    (value,), counts, _, _ = ANSWERS[form]
    first, second, third = recorded.with_ids(value, 3)
    reading, _ = read_documents([as_file(first, second), document("third.json", json.dumps([third]).encode())])
    assert reading.per_request == (counts, counts, counts)
    assert reading.totals == added([counts] * 3)
    assert reading.totals.requests == 3


def test_json_lines_a_list_and_a_stream_are_the_same():
    streamed = b'data: {"choices": []}\n\ndata: ' + json.dumps(recorded.VLLM).encode() + b"\n\ndata: [DONE]\n"
    readings = [
        read_documents([document("x", raw)])[0]
        for raw in (json.dumps(recorded.VLLM).encode(), json.dumps([recorded.VLLM]).encode(), streamed)
    ]
    assert [reading.totals for reading in readings] == [recorded.VLLM_COUNTS] * 3
    assert "1 of 2 records have no figures" in readings[2].notes[0]


def test_iterations_of_tensorrt_llm_are_added_without_the_copies_of_other_ranks():
    reading, form = read_documents([as_file(*recorded.TENSORRT_ITERATIONS)])
    assert (form, reading.totals) == ("tensorrt-llm", recorded.TENSORRT_ITERATIONS_COUNTS)
    assert any("1 records of other ranks" in note for note in reading.notes)


def test_the_log_of_llama_server_gives_each_task_its_own_tokens():
    reading, form = read_documents([document("server.log", recorded.LLAMA_LOG.encode())])
    assert (form, reading.totals) == ("llama.cpp", recorded.LLAMA_LOG_COUNTS)
    assert [request.emitted for request in reading.per_request] == [40, 200]
    assert [seconds for _, seconds in reading.seconds_by_request] == pytest.approx([2.43458, 11.19277])


def test_the_older_line_of_llama_servers_log_is_read():
    line = "draft acceptance rate = 0.57576 (  171 accepted /   297 generated)\n"
    reading, _ = read_documents([document("old.log", line.encode())])
    assert reading.totals == RoundTotals(requests=1, proposed=297, accepted=171)


def test_stats_of_an_sdk_of_lm_studio_are_those_of_its_answers():
    reading, form = read_documents([as_file(recorded.LM_STUDIO_SDK)])
    assert (form, reading.totals) == ("lm-studio", recorded.LM_STUDIO_COUNTS)
    assert any("1 proposed tokens were ignored" in note for note in reading.notes)


def test_counts_of_lm_studio_that_stand_in_usage_are_read():
    usage = {
        "completion_tokens": 300,
        "total_draft_tokens_count": 492,
        "accepted_draft_tokens_count": 176,
        "rejected_draft_tokens_count": 316,
    }
    reading, _ = read_documents([as_file({"usage": usage, "stats": {"tokens_per_second": 17.9}})])
    assert reading.totals == RoundTotals(requests=1, proposed=492, accepted=176, emitted=300)


def test_sglangs_names_before_and_after_the_rename_mean_the_same():
    old = {
        "completion_tokens": 30,
        "spec_accept_token_num": 17,
        "spec_draft_token_num": 36,
        "spec_verify_ct": 12,
        "spec_accept_histogram": [4, 2, 3, 3],
    }
    in_choice = {"choices": [{"index": 0, "meta_info": old}], "usage": {"completion_tokens": 30}}
    for value in ({"meta_info": old}, in_choice):
        assert read_documents([as_file(value)])[0].totals == recorded.SGLANG_COUNTS


def test_a_result_beside_others_without_figures_says_that_they_are_left_out():
    reading, _ = read_documents([as_file(recorded.VLLM_BENCH, {"date": "20261128"})])
    assert (reading.totals, reading.notes[-1][:12]) == (recorded.VLLM_BENCH_COUNTS, "1 of 2 recor")


def test_an_answer_without_a_proposal_counts_as_one():
    silent = changed(changed(recorded.LLAMA_CPP, "timings.draft_n", ...), "timings.draft_n_accepted", ...)
    reading, _ = read_documents([as_file(recorded.LLAMA_CPP, silent)])
    assert reading.totals == RoundTotals(requests=2, proposed=71, accepted=14, emitted=80)
    assert any("in 1 of 2 answers nothing was proposed" in note for note in reading.notes)


def test_steps_of_the_detailed_form_are_compared_with_the_counts():
    steps = {"per_step_accepted": [3, 3, 3, 1] + [0] * 39, "per_step_drafted": [3] * 43}
    figures = recorded.VLLM["metrics"]["speculative_decoding"] | steps
    detailed = changed(recorded.VLLM, "metrics.speculative_decoding", figures)
    assert read_documents([as_file(detailed)])[0].totals == recorded.VLLM_COUNTS


def test_fields_of_a_newer_version_are_named_and_do_no_harm():
    newer = changed(recorded.VLLM, "metrics.speculative_decoding.tree_width", 4)
    reading, _ = read_documents([as_file(newer)])
    assert reading.totals == recorded.VLLM_COUNTS
    assert any("tree_width" in note for note in reading.notes)


def test_a_record_that_fits_two_forms_must_be_named():
    both = recorded.LLAMA_CPP | {"stats": recorded.LM_STUDIO["stats"]}
    with pytest.raises(DraftbenchError, match=r"llama\.cpp or lm-studio") as error:
        read_documents([as_file(both)])
    assert "--from" in error.value.fix
    assert read_documents([as_file(both)], "lm-studio")[1] == "lm-studio"


def test_the_named_form_must_be_that_of_the_file():
    with pytest.raises(DraftbenchError, match="looks like vllm"):
        read_documents([as_file(recorded.VLLM)], "sglang")
    with pytest.raises(DraftbenchError, match="unknown form 'vlm'") as error:
        read_files([Path("x")], "vlm")
    assert "vllm" in error.value.fix


def test_a_file_is_recognised_by_its_content_alone(tmp_path: Path):
    path = tmp_path / "metrics.prom"
    path.write_text(json.dumps(recorded.SGLANG))
    assert read_files([path])[1] == "sglang"
    assert set(ANSWERS) | {"prometheus"} == set(FORMS)
