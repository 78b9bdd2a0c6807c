"""Two scrapes are what happened between them; what cannot be told apart is refused."""

from __future__ import annotations

import re

import pytest

from engine.deploy.readers import prometheus
from engine.deploy.readers.documents import document
from engine.deploy.readers.forms import read_documents
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals
from tests.unit.deploy.readers.recorded import vllm_scrape

BEFORE, AFTER = vllm_scrape(100, [60, 30, 10]), vllm_scrape(400, [210, 110, 50])
BETWEEN = RoundTotals(requests=30, rounds=300, proposed=900, accepted=270, accepted_at=[150, 80, 40], emitted=300 + 270)

LLAMA = """\
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 240
llamacpp:prompt_tokens_total 37
llamacpp:prompt_tokens_cached_total 35
llamacpp:spec_decode_num_draft_tokens_total 422
llamacpp:spec_decode_num_accepted_tokens_total 94
llamacpp:spec_decode_num_drafts_total 142
llamacpp:predicted_tokens_seconds 17.4649
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 66
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 19
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="2"} 9
"""
TENSORRT = """\
trtllm_spec_decode_drafted_tokens_total{token_position="0",worker="0"} 10
trtllm_spec_decode_drafted_tokens_total{token_position="0",worker="1"} 20
trtllm_spec_decode_drafted_tokens_total{token_position="1",worker="0"} 10
trtllm_spec_decode_drafted_tokens_total{token_position="1",worker="1"} 20
trtllm_spec_decode_accepted_tokens_total{token_position="0",worker="0"} 6
trtllm_spec_decode_accepted_tokens_total{token_position="0",worker="1"} 9
trtllm_spec_decode_accepted_tokens_total{token_position="1",worker="0"} 2
trtllm_spec_decode_accepted_tokens_total{token_position="1",worker="1"} 3
trtllm_request_success_total{finished_reason="stop"} 4
trtllm_generation_tokens_total 54
"""
SGLANG = """\
sglang:spec_accept_length{model_name="target"} 2.9
sglang:spec_accept_rate{model_name="target"} 0.27
sglang:spec_verify_calls_total{model_name="target"} 100.0
sglang:generation_tokens_total{model_name="target"} 260.0
sglang:num_requests_total{model_name="target"} 10.0
"""


def test_the_difference_of_two_scrapes_is_read_by_place():
    reading, form = read_documents([document("before", BEFORE.encode()), document("after", AFTER.encode())])
    assert (form, reading.server, reading.totals) == ("prometheus", "vllm", BETWEEN)
    assert (reading.gamma, reading.model, reading.prompt_tokens) == (3, "target", 3000)


def test_engines_are_added_and_said():
    two = [vllm_scrape(100, [60, 30, 10]) + vllm_scrape(50, [20, 10, 0], engine="1").split("counter\n")[1]]
    reading = prometheus.read(two[0], "after")
    assert (reading.totals.rounds, reading.totals.accepted_at) == (150, [80, 40, 10])
    assert "added over 2 engines" in reading.notes
    assert any("since the server was started" in note for note in reading.notes)


def test_an_engine_that_began_in_between_counts_from_nothing():
    after = AFTER + vllm_scrape(50, [20, 10, 0], engine="1").split("counter\n")[1]
    assert prometheus.read(after, "after", BEFORE, "before").totals.rounds == 350


def test_a_counter_that_fell_means_a_restart_and_is_refused():
    with pytest.raises(DraftbenchError, match=r"fell from 400 to 100") as error:
        prometheus.read(BEFORE, "after", AFTER, "before")
    assert "restarted" in error.value.why


def test_an_engine_that_is_gone_is_refused():
    before = BEFORE + vllm_scrape(50, [20, 10, 0], engine="1").split("counter\n")[1]
    with pytest.raises(DraftbenchError, match="has lost a series"):
        prometheus.read(AFTER, "after", before, "before")


def test_of_several_models_one_must_be_named():
    two = AFTER + vllm_scrape(50, [20, 10, 0], model="other").split("counter\n")[1]
    with pytest.raises(DraftbenchError, match="2 models: other, target"):
        prometheus.read(two, "after")
    assert prometheus.read(two, "after", model="other").totals.rounds == 50
    with pytest.raises(DraftbenchError, match="has no model 'targt'") as error:
        prometheus.read(two, "after", model="targt")
    assert "did you mean 'target'" in error.value.fix


def test_llama_server_counts_rounds_and_places_under_its_own_prefix():
    reading = prometheus.read(LLAMA, "metrics")
    assert reading.server == "llama.cpp"
    assert reading.totals == RoundTotals(rounds=142, proposed=422, accepted=94, accepted_at=[66, 19, 9], emitted=240)
    assert reading.prompt_tokens == 72


def test_tensorrt_llm_counts_by_place_of_finished_requests():
    reading = prometheus.read(TENSORRT, "metrics")
    assert reading.server == "tensorrt-llm"
    assert reading.totals == RoundTotals(
        requests=4, rounds=30, proposed=60, accepted=20, accepted_at=[15, 5], emitted=54
    )
    plain = "trtllm_spec_decode_num_draft_tokens_total 90\ntrtllm_spec_decode_num_accepted_tokens_total 40\n"
    assert prometheus.read(plain, "metrics").totals == RoundTotals(proposed=90, accepted=40)


def test_sglangs_gauges_are_not_taken_for_counts():
    reading = prometheus.read(SGLANG, "metrics")
    assert reading.totals == RoundTotals(requests=10, rounds=100, emitted=260)
    assert reading.totals.tokens_per_round == 2.5  # 250 tokens after the first of each answer
    assert any("meta_info" in note for note in reading.notes)


def test_labels_with_escapes_commas_and_braces_are_read():
    odd = r'vllm:spec_decode_num_drafts_total{model_name="a\"b,}\\",engine="0"} 3 1700000000000' + "\n"
    ((name, labels),) = prometheus.samples(odd, "x")
    assert (name, dict(labels)) == ("vllm:spec_decode_num_drafts", {"model_name": 'a"b,}\\', "engine": "0"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AFTER.replace('position="1"', 'position="5"'), "one of those before the last is missing"),
        (AFTER.replace('position="1"', 'position="one"'), "position is 'one'"),
        (AFTER.replace(" 210.0", " NaN"), "is nan"),
        (AFTER.replace(" 210.0", " 210.5"), r"is 210\.5"),
        (AFTER.replace(" 210.0", " 90.0"), "tokens accepted by place"),
        (AFTER.replace("drafts_total", "drafts_total{"), "is not a sample"),
        (AFTER + AFTER.split("counter\n")[1].split("\n")[1] + "\n", "comes twice"),
        (AFTER[: AFTER.rindex("210.0") + 3], "ends within"),
        (AFTER + LLAMA, "metrics of vllm and llama.cpp"),
        ("vllm:num_requests_running 3\n", "no counters of speculation"),
        (vllm_scrape(0, [0, 0, 0]), "nothing was proposed"),
    ],
)
def test_what_is_torn_or_says_nothing_is_refused(text: str, message: str):
    with pytest.raises(DraftbenchError) as error:
        prometheus.read(text, "metrics")
    assert re.search(message, str(error.value)), str(error.value)


def test_three_scrapes_are_too_many():
    with pytest.raises(DraftbenchError, match="3 scrapes"):
        read_documents([document(str(i), BEFORE.encode()) for i in range(3)])
