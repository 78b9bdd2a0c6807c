"""Rows of different length, decoded together, write what Transformers writes for each of them alone."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from engine.capture.generate import answer_prompts
from engine.capture.plan import plan_capture
from engine.capture.signal import SignalFormat
from engine.config.schema import CaptureSpec
from engine.decode import runner, slots
from engine.decode import slot_fit as slot_fit_module
from engine.decode.layer_kinds import layer_kinds
from engine.decode.positions import rotary_limit
from engine.decode.row_by_row import RowByRow
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling
from engine.decode.settings import NO_DRAFT, DecodeSettings, FixedLength
from engine.decode.slot_fit import fits_slots, probe, slot_fit
from engine.decode.slot_runner import SlotRunner
from engine.decode.speculative import plain_decode, speculative_decode
from engine.errors import DraftbenchError
from engine.models.head import hidden_states
from tests.conftest import tiny_llama
from tests.tiny_decoders import GPT2, KINDS, LLAMA, NEO, ROW_BY_ROW, SIDE_BY_SIDE, WINDOWED, made, prompts
from tests.tiny_pair import blend, loaded, questions

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
GREEDY, LENGTH = Sampling(0.0), 24


def alone(model, ids: list[int]) -> list[int]:
    """What Transformers' own generate writes for one prompt."""
    settings = transformers.GenerationConfig(max_new_tokens=LENGTH, do_sample=False, pad_token_id=1)
    given = torch.tensor([ids])
    written = model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
    return written[0, len(ids) :].tolist()


def texts(rounds, rows: int) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in range(rows)]
    for item in rounds:
        written[item.row] += item.emitted
    return written


def speculative(model, rows: list[list[int]]) -> list[list[int]]:
    """With a draft that is right only partly, so that each round leaves rows of other lengths."""
    draft = blend(copy.deepcopy(model), _other(model), 0.15)
    settings = DecodeSettings(GREEDY, FixedLength(3), LENGTH, frozenset({1}))
    found = list(speculative_decode(model, draft, rows, settings))
    assert any(r.rejected for r in found), "nothing was taken back"
    assert any(r.accepted for r in found), "nothing was kept"
    return texts(found, len(rows))


def _other(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return AutoModelForCausalLM.from_config(model.config).float()


@pytest.mark.parametrize("name", KINDS)
def test_ragged_speculative_text_is_that_of_transformers_alone(name):
    model, rows = made(name, KINDS[name]), prompts()
    expected = [alone(model, ids) for ids in rows]
    assert len({token for text in expected for token in text}) > 4, "texts that say nothing prove nothing"
    assert speculative(model, rows) == expected


@pytest.mark.parametrize("name", KINDS)
def test_captured_text_is_that_of_transformers_alone(name):
    model, rows = made(name, KINDS[name]), prompts()
    signal = SignalFormat("none", 32, 258, 8)
    answers = answer_prompts(
        model,
        rows,
        [str(i) for i in range(len(rows))],
        GREEDY,
        max_new_tokens=LENGTH,
        stop_ids=frozenset({1}),
        seed=0,
        batch_size=4,
        signal=signal,
    )
    found = {answer.index: answer.token_ids for answer in answers}
    assert [found[i] for i in range(len(rows))] == [alone(model, ids) for ids in rows]


@pytest.mark.parametrize("name", KINDS)
def test_padding_on_the_right_changes_nothing(name):
    """Training, `exact` and scoring read whole texts beside each other."""
    model, rows = made(name, KINDS[name]), prompts()
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    together = hidden_states(model, ids, mask)
    for row, states in zip(rows, together, strict=True):
        torch.testing.assert_close(
            states[: len(row)], hidden_states(model, torch.tensor([row]))[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", KINDS)
def test_who_decodes_side_by_side_is_known_without_a_list(name):
    model = made(name, KINDS[name])
    assert fits_slots(model) is (name in SIDE_BY_SIDE)
    assert type(runner_for(model)) is (SlotRunner if name in SIDE_BY_SIDE else RowByRow)
    assert bool(slot_fit(model).why_not) is (name in ROW_BY_ROW)


@pytest.mark.parametrize("name", ["gpt_neo", "bloom"])
def test_slots_let_in_on_purpose_change_the_text(name, monkeypatch):
    """Else the tests above would prove nothing: the same prompts, in one cache."""
    model, rows = made(name, KINDS[name]), prompts()
    monkeypatch.setattr(runner, "fits_slots", lambda _: True)
    with contextlib.suppress(RuntimeError, ValueError):  # it may also not take such a mask
        assert speculative(model, rows) != [alone(model, ids) for ids in rows]


def told(rounds) -> list:
    """What rounds say, less the clock and the last digits of probabilities."""
    return [
        (r.row, r.number, r.finish_reason, [(t.token_id, t.fate, t.position, t.uniform) for t in r.tokens])
        for r in rounds
    ]


@pytest.mark.parametrize(
    ("sampling", "proposals"),
    [
        (GREEDY, "sampled"),
        (Sampling(1.0), "sampled"),
        (Sampling(0.7, 20, 0.8), "sampled"),
        (Sampling(1.0), "argmax"),
        (Sampling(0.3, 20, 0.8), "argmax"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mistral-window", "gpt2"])
def test_rounds_are_those_of_the_reference(name, sampling, proposals, monkeypatch):
    """Each of one row and of a ragged batch, by the cache of slots and row by row."""
    model, rows = made(name, KINDS[name]), prompts()
    draft = blend(copy.deepcopy(model), _other(model), 0.15)
    settings = DecodeSettings(sampling, FixedLength(3), LENGTH, frozenset({1, *range(40, 60)}), proposals=proposals)

    def rounds():
        together = list(speculative_decode(model, draft, rows, settings))
        single = [r for ids in rows for r in speculative_decode(model, draft, [ids], settings, names=["alone"])]
        return told(together), told(single)

    by_slots = rounds()
    monkeypatch.setattr(runner, "fits_slots", lambda _: False)
    assert rounds() == by_slots


def test_captures_that_were_made_with_holes_are_not_used_again(tmp_path):
    plans = {
        name: plan_capture(tmp_path, loaded(made(name, KINDS[name])), questions(), CaptureSpec())
        for name in ("gpt_neo", "gpt2")
    }
    assert plans["gpt_neo"].spec["rows"] == "apart"
    assert "rows" not in plans["gpt2"].spec  # whose captures keep their address


@pytest.mark.parametrize("window", [2, 3, 8, 40, 256, 900])
def test_a_window_of_columns_is_noticed_whatever_its_width(window):
    settings = {**NEO, "window_size": window, "max_position_embeddings": 2048, "initializer_range": 0.02}
    assert slot_fit(made("gpt_neo", settings)).side_by_side is False


def test_the_probe_reaches_past_a_window_longer_than_its_usual_row():
    settings = {**NEO, "window_size": 1500, "max_position_embeddings": 4096}
    assert slot_fit(made("gpt_neo", settings)).difference > 0.01


@pytest.mark.parametrize("name", WINDOWED)
def test_the_probe_leaves_windows_as_they_were(name):
    model = made(name, KINDS[name])
    before = copy.deepcopy(model.config.to_dict())
    assert fits_slots(model)
    assert model.config.to_dict() == before


def test_a_window_as_long_as_those_of_real_models_is_tried():
    """It is made short for the probe, so that a text of a few tokens leaves it."""
    assert probe(made("mistral", {**LLAMA, "sliding_window": 4096, "max_position_embeddings": 32768})).side_by_side


def test_a_model_whose_windows_are_not_ours_is_decoded_row_by_row(monkeypatch):
    def wider(model):
        return [replace(kind, width=kind.width and kind.width + 1) for kind in layer_kinds(model)]

    monkeypatch.setattr(slots, "layer_kinds", wider)
    assert "counts columns" in probe(made("mistral", {**LLAMA, "sliding_window": 4096})).why_not


def test_the_probe_is_as_sure_in_bfloat16():
    assert fits_slots(tiny_llama().bfloat16())
    assert fits_slots(made("gemma3_text", KINDS["gemma3_text"]).bfloat16())
    settings = {**NEO, "window_size": 256, "max_position_embeddings": 2048}
    assert not fits_slots(made("gpt_neo", settings).bfloat16())


def test_the_probe_leaves_a_model_in_training_as_it_was():
    model = made("gpt2", {**GPT2, "resid_pdrop": 0.5})
    model.train()
    assert probe(model).side_by_side
    assert model.training


def test_the_probe_is_made_once_a_model(monkeypatch):
    asked = []
    monkeypatch.setattr(slot_fit_module, "probe", lambda model: asked.append(model) or slot_fit_module.SlotFit(True))
    model = tiny_llama()
    assert fits_slots(model)
    assert fits_slots(model)
    assert asked == [model]


def test_a_model_that_remembers_beside_its_cache_is_refused():
    class Remembering(torch.nn.Module):
        """Adds the mean of all it ever read to its states."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.seen = inner, []

        def forward(self, input_ids, position_ids=None, **options):
            output = self.inner(input_ids=input_ids, position_ids=position_ids, **options)
            self.seen.append(output.last_hidden_state.mean(1, keepdim=True))
            output.last_hidden_state = output.last_hidden_state + torch.stack(self.seen).mean(0)
            return output

    model = tiny_llama()
    inner, model.model = model.model, torch.nn.Identity()
    model.model = Remembering(inner)
    model.get_input_embeddings = lambda: inner.embed_tokens
    with pytest.raises(DraftbenchError, match="does not forget"):
        runner_for(model)


def test_the_other_row_is_longer_than_a_window_however_wide_the_model(monkeypatch):
    model = made("gpt_neo", {**NEO, "window_size": 256, "max_position_embeddings": 2048})
    monkeypatch.setattr(slot_fit_module, "_FARTHER_BYTES", 1)
    assert not probe(model).side_by_side
    assert probe(model).difference > 0.01
    monkeypatch.setattr(slot_fit_module, "_MOST_FARTHER_BYTES", 1)
    assert "too long to try" in probe(model).why_not
    assert probe(tiny_llama()).side_by_side  # names no window


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_depend_on_the_length_are_refused_beyond_their_limit(kind):
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4} if kind == "longrope" else {}
    rope = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 40, **factors}
    model = made("llama", {**LLAMA, "max_position_embeddings": 40, "rope_parameters": rope})
    assert rotary_limit(model) == 40
    short = [ids for ids in prompts() if len(ids) + LENGTH <= 40]
    assert speculative(model, short) == [alone(model, ids) for ids in short]
    with pytest.raises(DraftbenchError, match="40 tokens") as refused:
        speculative(model, prompts())
    assert "40" in refused.value.fix
    assert rotary_limit(tiny_llama()) is None


def test_a_target_refuses_an_id_it_has_no_embedding_for():
    model = tiny_llama(vocab=258)
    with pytest.raises(DraftbenchError, match="300") as refused:
        list(plain_decode(model, [[5, 300]], DecodeSettings(GREEDY, NO_DRAFT, 2, frozenset())))
    assert "257" in refused.value.why


def test_a_draft_guesses_on_where_only_its_target_can_read_an_id():
    target, draft = tiny_llama(vocab=320), tiny_llama(vocab=258, layers=2)
    settings = DecodeSettings(GREEDY, FixedLength(2), 6, frozenset())
    rounds = speculative_decode(target, draft, [[5, 300], [6]], settings)
    assert [len(text) for text in texts(rounds, 2)] == [6, 6]
