"""A model's own generation settings change no comparison, and what they ask for is told."""

import json

import pytest
import torch
from transformers import GenerationConfig

from engine.decode.bare import asked_for, bare_generation, generate, remark, remark_on_folder
from engine.decode.sampling import Sampling
from engine.decode.settings import NO_DRAFT, DecodeSettings
from engine.decode.speculative import plain_decode
from engine.errors import DraftbenchError
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

torch.set_num_threads(1)
TARGET, DRAFT = tiny_llama(), noisy_copy()
PROMPT, COUNT = [5, 6, 7], 14
GREEDY = Sampling(0.0)

# Settings that are known to change a text, to end it early, or to make `generate` fail.
OWN_SETTINGS = (
    {"repetition_penalty": 1.3},
    {"encoder_repetition_penalty": 3.0},
    {"no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 1},
    {"num_beams": 4, "length_penalty": 3.0},
    {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
    {"do_sample": True, "min_p": 0.2, "typical_p": 0.4, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"cache_implementation": "static"},
    {"use_cache": False},
    {"max_length": 5},
    {"max_new_tokens": 2},
    {"max_time": 1e-9},
    {"min_length": 40, "min_new_tokens": 40},
    {"forced_bos_token_id": 9},
    {"forced_eos_token_id": 9},
    {"suppress_tokens": list(range(200)), "begin_suppress_tokens": list(range(250))},
    {"bad_words_ids": [[token] for token in range(200)]},
    {"sequence_bias": [[[9], 50.0]]},
    {"exponential_decay_length_penalty": [1, 9.0]},
    {"guidance_scale": 3.0},
    {"watermarking_config": {"bias": 20.0}},
    {"stop_strings": ["a"]},
    {"num_return_sequences": 1, "return_dict_in_generate": True, "output_scores": True},
    {"prompt_lookup_num_tokens": 3},
    {"num_assistant_tokens": 1, "num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.99},
)


def own_text():
    rounds = plain_decode(TARGET, [PROMPT], DecodeSettings(GREEDY, NO_DRAFT, COUNT, frozenset()))
    return [token for r in rounds for token in r.emitted]


@pytest.mark.slow
@pytest.mark.parametrize("settings", OWN_SETTINGS, ids=lambda s: next(iter(s)))
@pytest.mark.parametrize("of", ["target", "draft"])
def test_no_setting_of_either_model_changes_the_text(settings, of, monkeypatch):
    model = TARGET if of == "target" else DRAFT
    strange = GenerationConfig(eos_token_id=own_text()[3], pad_token_id=1, **settings)
    monkeypatch.setattr(model, "generation_config", strange)
    plain = generate(TARGET, PROMPT, GREEDY, max_new_tokens=COUNT, seed=0)
    assisted = generate(TARGET, PROMPT, GREEDY, max_new_tokens=COUNT, seed=0, assistant=DRAFT, num_draft_tokens=3)
    assert plain == assisted == own_text()
    assert model.generation_config is strange, "the settings are put back"


def test_what_ends_an_answer_is_what_the_caller_says():
    stop = own_text()[3]
    first = own_text().index(stop)
    for more in ({}, {"assistant": DRAFT}):
        assert (
            generate(TARGET, PROMPT, GREEDY, max_new_tokens=COUNT, seed=0, stop_ids={stop}, **more)
            == own_text()[: first + 1]
        )


def test_the_settings_are_put_back_after_an_error():
    before = TARGET.generation_config

    def inside():
        with bare_generation(TARGET, DRAFT, stop_ids={4}):
            raise KeyError(TARGET.generation_config.eos_token_id)

    with pytest.raises(KeyError, match=r"\[4\]"):
        inside()
    assert TARGET.generation_config is before


def test_what_the_settings_ask_for_is_told():
    qwen = {
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "do_sample": True,
        "eos_token_id": [1, 2],
    }
    assert asked_for(qwen) == {"repetition_penalty": 1.05}
    assert "repetition_penalty 1.05" in remark(qwen)
    assert asked_for({"num_beams": 1, "length_penalty": 2.0, "repetition_penalty": 1.0, "max_length": 20}) == {}
    assert asked_for({"num_beams": 2, "length_penalty": 2.0}) == {"num_beams": 2, "length_penalty": 2.0}
    assert asked_for({"suppress_tokens": [], "bad_words_ids": None, "no_such_setting": 3}) == {}
    assert remark(GenerationConfig().to_dict()) == remark({}) == ""
    assert len(remark({"suppress_tokens": list(range(9999))})) < 300


def test_they_are_read_without_weights_wherever_a_folder_keeps_them(tmp_path):
    assert remark_on_folder(tmp_path) == ""
    (tmp_path / "config.json").write_text(json.dumps({"no_repeat_ngram_size": 3, "hidden_size": 4}))
    assert "no_repeat_ngram_size 3" in remark_on_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 4}))
    assert "num_beams 4" in remark_on_folder(tmp_path)
    for damaged in ("[1]", "{", "\xff", "[" * 100_000):
        (tmp_path / "generation_config.json").write_text(damaged, encoding="latin-1")
        with pytest.raises(DraftbenchError):
            remark_on_folder(tmp_path)
