"""Torn, empty, future and contradicting figures are refused, each with what is wrong about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.deploy.readers.documents import document, read_document
from engine.deploy.readers.forms import read_documents, read_files
from engine.errors import DraftbenchError
from tests.unit.deploy.readers import recorded
from tests.unit.deploy.readers.recorded import as_file, changed

VLLM, SPEC = recorded.VLLM, "metrics.speculative_decoding"
TRT = "choices.0.speculative_decoding"

CONTRADICTING: dict[str, tuple[dict[str, Any], str]] = {
    "vllm: accepted more than proposed": (
        changed(changed(VLLM, f"{SPEC}.num_draft_tokens", 9), f"{SPEC}.draft_acceptance_rate", None),
        "10 tokens were accepted, 9 proposed",
    ),
    "vllm: histogram against steps": (changed(VLLM, f"{SPEC}.num_spec_steps", 44), "the histogram has 43 rounds"),
    "vllm: histogram against accepted": (
        changed(VLLM, f"{SPEC}.acceptance_histogram", [38, 2, 0, 3]),
        "the histogram has 11 accepted tokens, 10 are reported",
    ),
    "vllm: histogram against gamma": (changed(VLLM, f"{SPEC}.num_spec_tokens", 4), "num_spec_tokens is 4"),
    "vllm: rate": (changed(VLLM, f"{SPEC}.draft_acceptance_rate", 0.5), "reported as 0.5, its counts give 0.0775"),
    "vllm: mean length without the bonus token": (
        changed(VLLM, f"{SPEC}.mean_acceptance_length", 0.2326),
        "reported as 0.2326, its counts give 1.2326",
    ),
    "vllm: steps": (changed(VLLM, f"{SPEC}.per_step_accepted", [3, 3, 3]), "per_step_accepted has 3 steps"),
    "sglang: two names, two counts": (
        changed(recorded.SGLANG, "meta_info.spec_accepted_drafts", 16),
        "spec_num_correct_drafts is 17, spec_accepted_drafts is 16",
    ),
    "sglang: rate": (changed(recorded.SGLANG, "meta_info.spec_accept_rate", 0.9), "spec_accept_rate"),
    "llama.cpp: accepted more than proposed": (
        changed(recorded.LLAMA_CPP, "timings.draft_n_accepted", 72),
        "72 tokens were accepted, 71 proposed",
    ),
    "llama.cpp: half of the counts": (changed(recorded.LLAMA_CPP, "timings.draft_n", ...), "the other one is not"),
    "llama.cpp: a null": (changed(recorded.LLAMA_CPP, "timings.draft_n_accepted", None), "the other one is not"),
    "tensorrt-llm: more than any proposal": (
        changed(recorded.TENSORRT_ITERATIONS[1], "specDecodingStats.numDraftTokens", 8001),
        "8,001 tokens proposed in 8 rounds",
    ),
    "bench: requests": (changed(recorded.VLLM_BENCH, "completed", 9), "9 requests were completed, 8 prompts"),
    "tensorrt-llm: length": (
        changed(recorded.TENSORRT_ITERATIONS[1], "specDecodingStats.acceptanceLength", 1.5),
        "acceptanceLength",
    ),
    "tensorrt-llm: histogram": (changed(recorded.TENSORRT, f"{TRT}.num_spec_steps", 19), "the histogram has 20 rounds"),
    "lm studio: sum": (
        changed(recorded.LM_STUDIO, "stats.total_draft_tokens_count", 25),
        "25 draft tokens, 15 accepted, 4 rejected, 1 ignored",
    ),
    "aiperf: histogram": (
        changed(recorded.AIPERF, "spec_decode_acceptance.acceptance_histogram", {"0": 9, "2": 5, "3": 6}),
        "the histogram has 28 accepted tokens, 30 are reported",
    ),
    "bench: rate": (changed(recorded.VLLM_BENCH, "spec_decode_acceptance_rate", 31.0), "acceptance rate"),
    "bench: share of rounds": (
        changed(recorded.VLLM_BENCH, "spec_decode_per_position_acceptance_rates", [0.503, 0.25, 0.15]),
        "that is not a whole number",
    ),
    "bench: places": (
        changed(recorded.VLLM_BENCH, "spec_decode_per_position_acceptance_rates", [0.25, 0.5, 0.15]),
        "but a later one needs all before it",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTING)
def test_figures_that_contradict_each_other_are_refused_with_both(case: str):
    value, message = CONTRADICTING[case]
    with pytest.raises(DraftbenchError) as error:
        read_documents([as_file(value)])
    assert message in error.value.what
    assert error.value.why
    assert error.value.fix


FUTURE: dict[str, tuple[dict[str, Any], str]] = {
    "vllm": (changed(VLLM, f"{SPEC}.num_spec_steps", ...), "has no num_spec_steps"),
    "sglang: no counts": ({"meta_info": {"spec_verify_ct": 4, "spec_accept_length": 2.1}}, "does not count accepted"),
    "sglang: no rounds": (changed(recorded.SGLANG, "meta_info.spec_verify_ct", ...), "does not count its rounds"),
    "tensorrt-llm": (changed(recorded.TENSORRT, f"{TRT}.total_draft_tokens", ...), "has no total_draft_tokens"),
    "lm studio": (changed(recorded.LM_STUDIO, "stats.accepted_draft_tokens_count", ...), "not both counted"),
    "aiperf": (changed(recorded.AIPERF, "spec_decode_acceptance.acceptance_histogram", [1, 2]), "is not an object"),
    "bench": (changed(recorded.VLLM_BENCH, "spec_decode_num_drafts", ...), "has no spec_decode_num_drafts"),
    "llama.cpp: a text as count": (changed(recorded.LLAMA_CPP, "timings.draft_n", "71"), "draft_n is '71'"),
    "a negative count": (changed(VLLM, f"{SPEC}.num_draft_tokens", -1), "num_draft_tokens is -1"),
    "half a token": (changed(VLLM, f"{SPEC}.num_draft_tokens", 128.5), "num_draft_tokens is 128.5"),
    "true": (changed(VLLM, f"{SPEC}.num_draft_tokens", True), "num_draft_tokens is True"),
    "histogram as text": (changed(VLLM, f"{SPEC}.acceptance_histogram", "39,1,0,3"), "acceptance_histogram is"),
}


@pytest.mark.parametrize("case", FUTURE)
def test_figures_of_an_unknown_version_are_refused_by_what_they_lack(case: str):
    value, message = FUTURE[case]
    with pytest.raises(DraftbenchError) as error:
        read_documents([as_file(value)])
    assert message in error.value.what


def test_a_torn_file_is_refused_with_its_line(tmp_path: Path):
    line = json.dumps(VLLM)
    with pytest.raises(DraftbenchError, match=r"answers, line 3 .*JSON") as error:
        read_documents([document("answers", f"{line}\n{line}\n{line[:200]}".encode())])
    assert "torn" in error.value.why
    with pytest.raises(DraftbenchError, match="is not valid JSON"):
        read_documents([document("answer", line[:-3].encode())])
    with pytest.raises(DraftbenchError, match="line 1"):
        read_documents([document("stream", f"data: {line[:300]}\n".encode())])


@pytest.mark.parametrize("raw", [b"", b" \n\t ", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(raw: bytes):
    with pytest.raises(DraftbenchError, match="is empty"):
        document("nothing", raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "is an empty list"),
        (b"{}", "no figures of speculation"),
        (b"data:\n\ndata: [DONE]\n", "a stream without data"),
        (b"hello\n", "no figures of speculation"),
        (b"[1, 2]", "record 1 is not a JSON object"),
        (b'{"a": 1}\n[2]\n', "line 2 is not a JSON object"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b'{"timings": {"predicted_n": 4}}', "no tokens were proposed"),
        (b'{"stats": {"total_draft_tokens_count": 0, "accepted_draft_tokens_count": 0}}', "no tokens were proposed"),
        (b'{"metrics": {"speculative_decoding": null}}', "no figures of speculation"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b"[" * 3000, "nested too deeply"),
        (
            b'{"specDecodingStats": {"numDraftTokens": 0, "numAcceptedTokens": 0, "numRequestsWithDraftTokens": 0}}',
            "no it",
        ),
    ],
)
def test_what_holds_no_figures_is_refused(raw: bytes, message: str):
    with pytest.raises(DraftbenchError, match=message):
        read_documents([document("file", raw)])


def test_settings_are_not_mixed():
    other = changed(VLLM, SPEC, VLLM["metrics"]["speculative_decoding"] | {"acceptance_histogram": [39, 1, 0, 3, 0]})
    other = changed(other, f"{SPEC}.num_spec_tokens", 4) | {"id": "chatcmpl-2"}
    with pytest.raises(DraftbenchError, match="proposals of 3, 4 tokens at most"):
        read_documents([as_file(VLLM, other)])
    engines = changed(recorded.AIPERF, "spec_decode_acceptance.engine", "vllm")
    with pytest.raises(DraftbenchError, match="records of tensorrt_llm, vllm"):
        read_documents([as_file(recorded.AIPERF, engines)])
    with pytest.raises(DraftbenchError, match="2 results of vllm bench serve"):
        read_documents([as_file(recorded.VLLM_BENCH, recorded.VLLM_BENCH)])
    with pytest.raises(DraftbenchError, match=r"is text, answers\.jsonl is JSON"):
        read_documents([document("log", recorded.LLAMA_LOG.encode()), as_file(VLLM)])
    with pytest.raises(DraftbenchError, match="iterations and answers"):
        read_documents([as_file(recorded.TENSORRT, *recorded.TENSORRT_ITERATIONS)])


def test_a_log_whose_rate_is_not_that_of_its_counts_is_refused():
    torn = recorded.LLAMA_LOG.replace("14 accepted", "15 accepted")
    with pytest.raises(DraftbenchError, match=r"line 3: a rate of 0\.19718, 15 accepted of 71"):
        read_documents([document("server.log", torn.encode())])


def test_what_is_no_regular_file_is_refused(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="a folder"):
        read_document(tmp_path)
    with pytest.raises(DraftbenchError, match="could not read"):
        read_document(tmp_path / "missing.json")
    with pytest.raises(DraftbenchError, match="a device"):
        read_document(Path("/dev/zero"))
    with pytest.raises(DraftbenchError, match="0 files"):
        read_files([])


def test_a_count_is_compared_with_the_text_beside_it():
    with pytest.raises(DraftbenchError, match="0 tokens are counted, 111 bytes of text were written"):
        read_documents([as_file(changed(VLLM, "usage.completion_tokens", 0))])
    long = changed(VLLM, "choices.0.message.content", "A cell. " * 200)
    reading = read_documents([as_file(long | {"id": "2"}, VLLM)])[0]
    assert any("in 1 of 2 answers: another count of tokens" in note for note in reading.notes)
    assert not any("another count" in note for note in read_documents([as_file(VLLM)])[0].notes)


BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "aiperf: gamma": (changed(recorded.AIPERF, "spec_decode_acceptance.num_spec_tokens", 1e15), "num_spec_tokens is"),
    "aiperf: a key": (
        changed(recorded.AIPERF, "spec_decode_acceptance.acceptance_histogram", {"0" * 9 + "9" * 20: 1}),
        "a key of answers.jsonl: acceptance_histogram is '000000000999",
    ),
    "aiperf: a key in a second spelling": (
        changed(recorded.AIPERF, "spec_decode_acceptance.acceptance_histogram", {"0": 8, "2": 6, "3": 6, "03": 0}),
        "acceptance_histogram is '03'",
    ),
    "vllm: gamma": (changed(VLLM, f"{SPEC}.num_spec_tokens", 0), "num_spec_tokens is 0"),
    "tensorrt-llm: gamma": (changed(recorded.TENSORRT, f"{TRT}.num_spec_tokens", 1001), "num_spec_tokens is 1001"),
    "sglang: places": (changed(recorded.SGLANG, "meta_info.spec_correct_drafts_histogram", [0] * 1001), "histogram is"),
    "bench: places": (
        changed(recorded.VLLM_BENCH, "spec_decode_per_position_acceptance_rates", [0.0] * 1001),
        "per-position rates",
    ),
    "bench: a speed": (changed(recorded.VLLM_BENCH, "output_throughput", -1.0), "output_throughput is -1"),
    "lm studio: a duration": (changed(recorded.LM_STUDIO, "stats.generation_time", 1e10), "generation_time is"),
    "vllm: steps that are null": (changed(VLLM, f"{SPEC}.per_step_accepted", [None] * 43), "accepted[0] is None"),
    "vllm: steps that are words": (changed(VLLM, f"{SPEC}.per_step_drafted", ["3"] * 43), "drafted[0] is '3'"),
    "llama.cpp: a temperature": (
        recorded.LLAMA_CPP | {"generation_settings": {"temperature": []}},
        "temperature is []",
    ),
    "llama.cpp: a temperature below 0": (
        recorded.LLAMA_CPP | {"generation_settings": {"temperature": -1}},
        "temperature is -1",
    ),
    "llama.cpp: a temperature without end": (
        recorded.LLAMA_CPP | {"generation_settings": {"temperature": float("inf")}},
        "temperature is inf",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_no_server_can_mean_is_refused_with_its_place(case: str):
    value, message = BEYOND[case]
    with pytest.raises(DraftbenchError) as error:
        read_documents([as_file(value)])
    assert message in error.value.what


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("= 0.19718", "= 0.5.0"),
        ("2434.58 ms", "2.43.4 ms"),
        ("   14 accepted", " " + "1" * 5000 + " accepted"),
        ("generated), mean len =  1.58", "gener"),
    ],
)
def test_a_torn_line_of_a_log_is_refused(old: str, new: str):
    with pytest.raises(DraftbenchError, match=r"server\.log, line [23]") as error:
        read_documents([document("server.log", recorded.LLAMA_LOG.replace(old, new).encode())])
    assert "torn" in error.value.why


def test_temperatures_are_not_mixed():
    at = [recorded.LLAMA_CPP | {"generation_settings": {"temperature": value}} for value in (0, 1.0)]
    with pytest.raises(DraftbenchError, match="answers at temperatures 0, 1"):
        read_documents([as_file(*at)])
    assert read_documents([as_file(at[1], at[1])])[0].temperature == 1.0
    reading = read_documents([as_file(at[1], recorded.LLAMA_CPP)])[0]
    assert any("1 of 2 records do not state the temperature" in note for note in reading.notes)


@pytest.mark.parametrize(
    "answer",
    [
        *(VLLM, recorded.SGLANG, recorded.LLAMA_CPP | {"id": "chatcmpl-7"}),
        changed(recorded.AIPERF, "metadata.x_request_id", "r-7"),
    ],
)
def test_an_answer_that_is_given_twice_is_refused_by_its_id(answer: dict[str, Any]):
    with pytest.raises(DraftbenchError, match=r"other, line 1 has the id of one, line 2: ") as error:
        read_documents([as_file({}, answer, name="one"), as_file(answer, {}, name="other")])
    assert "twice" in error.value.why


def test_a_file_and_an_iteration_that_are_given_twice_are_refused_by_name():
    with pytest.raises(DraftbenchError, match="copy has the same content as one"):
        read_documents([as_file(recorded.LLAMA_CPP, name=name) for name in ("one", "copy")])
    with pytest.raises(DraftbenchError, match=r"line 2 and one, line 1 are both iteration 1"):
        read_documents([as_file(*[recorded.TENSORRT_ITERATIONS[1]] * 2, name="one")])


def test_pieces_of_a_stream_share_an_id():
    pieces = [{"id": "chatcmpl-1", "choices": []}, {"id": "chatcmpl-1", "choices": []}, VLLM]
    assert read_documents([as_file(*pieces)])[0].totals == recorded.VLLM_COUNTS


def pieces_of(server: str) -> list[dict[str, Any]]:
    """A streamed answer as the server sends it if each piece is to have its figures: all tokens so far."""
    counts = [(1, 0, 0, 0, None), (3, 1, 3, 2, None), (4, 2, 6, 2, "stop")]
    if server == "sglang":
        return [
            {
                "text": "ab" * n,
                "meta_info": {
                    "id": "r-1",
                    "finish_reason": end and {"type": end},
                    "completion_tokens": n,
                    "spec_verify_ct": rounds,
                    "spec_draft_token_num": proposed,
                    "spec_accept_token_num": accepted,
                },
            }
            for n, rounds, proposed, accepted, end in counts
        ]
    timings = [
        {"predicted_n": n} | ({"draft_n": proposed, "draft_n_accepted": accepted} if proposed else {})
        for n, _, proposed, accepted, _ in counts
    ]
    if server == "llama.cpp /completion":  # has no id
        return [
            {"content": "ab", "stop": bool(end), "timings": figures}
            for (*_, end), figures in zip(counts, timings, strict=True)
        ]
    return [
        {"id": "chatcmpl-1", "choices": [{"finish_reason": end, "delta": {"content": "ab"}}], "timings": figures}
        for (*_, end), figures in zip(counts, timings, strict=True)
    ]


@pytest.mark.parametrize("server", ["llama.cpp chat", "llama.cpp /completion", "sglang"])
def test_a_stream_with_figures_in_every_piece_is_one_answer(server: str):
    pieces = pieces_of(server)
    reading, _ = read_documents([as_file(*pieces)])
    assert (reading.totals.requests, reading.totals.proposed, reading.totals.accepted) == (1, 6, 2)
    assert not any("left out" in note for note in reading.notes)
    with pytest.raises(DraftbenchError, match="line 2 is the last piece here of a streamed answer that continues"):
        read_documents([as_file(*pieces[:-1])])
