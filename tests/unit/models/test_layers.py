"""A draft of some of its target's layers keeps each layer's kind, in every family that mixes kinds, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config.schema import DraftSpec
from engine.errors import DraftbenchError
from engine.models.draft import initialise_draft, load_draft, save_draft
from engine.models.head import text_config
from engine.models.layers import needed_layers, settings_of_layers, with_needed
from engine.models.load import LoadedModel
from engine.models.shallow import check_copied, fitting_layers, left_out, shallow_model
from engine.models.split import logits_without
from tests.tiny_families import LAYERS, MIXED, SEEING, random_model, small_config
from tests.tiny_pair import loaded

IDS = torch.tensor([[0, 5, 7, 90, 33, 12, 250, 2, 4, 77, 78]])
# Choices whose layers can stand alone, where the first and the last cannot.
TOGETHER = {
    "Gemma-3n": [0, 3, 5],
    "Gemma-4, shared keys": [1, 2, 3, 4, 5],
    "GLM-MoE-DSA, shared indexers": [0, 3, 5],
    "GPT-2, scaled by place": [0, 1, 2],
    "DiffLlama, a constant by place": [0, 1],
}


def tiny(name: str) -> LoadedModel:
    kind, settings = {**MIXED, **SEEING}[name]
    return loaded(random_model(small_config(kind, **settings)), name)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MIXED, "Gemma-3 with eyes", "Gemma-4 with eyes"])
def test_a_draft_computes_what_its_layers_compute_in_the_target(name: str, tmp_path: Path):
    """Judged by the target itself, with hooks that let its other layers pass on what they were given."""
    of = tiny(name)
    for chosen in (TOGETHER.get(name, [0, LAYERS - 1]), list(range(LAYERS))):
        draft = initialise_draft(of, DraftSpec(layers=chosen), seed=0)
        expected = logits_without(of.model, left_out(of.model, draft.model, chosen), IDS)
        close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
        torch.testing.assert_close(logits(draft.model), expected, **close)
        save_draft(tmp_path / str(len(chosen)), draft)
        torch.testing.assert_close(
            logits(load_draft(tmp_path / str(len(chosen)), of).model), logits(draft.model), **close
        )
    torch.testing.assert_close(expected, logits(of.model))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_layers_that_cannot_stand_alone_are_refused_with_a_choice_that_works(name: str):
    of = tiny(name)
    with pytest.raises(DraftbenchError) as refused:
        initialise_draft(of, DraftSpec(layers=[0, LAYERS - 1]), seed=0)
    assert "[0, 5]" in refused.value.what
    assert "layer 5" in refused.value.why
    named = refused.value.fix.removeprefix("for example draft.layers: ")
    other = [int(layer) for layer in named.strip("[]").split(", ")]
    assert len(other) < LAYERS
    assert fitting_layers(of.model, other) == other
    initialise_draft(of, DraftSpec(layers=other), seed=0)


def test_the_same_is_said_without_weights():
    for name in ("DeepSeek-V3, dense first", "Gemma-3n"):
        kind, settings = MIXED[name]
        family = type(tiny(name).model)
        with torch.device("meta"):
            outline = family(small_config(kind, **settings))
        if name in TOGETHER:
            with pytest.raises(DraftbenchError, match="layer 5 reuses what layer 3 computes"):
                fitting_layers(outline, [0, 5])
        else:
            assert fitting_layers(outline, [0, 5]) == [0, 5]


def test_embeddings_of_each_layer_are_cut_to_the_layers_that_stay():
    of = tiny("Gemma-3n, nothing shared")
    draft = initialise_draft(of, DraftSpec(layers=[1, 4]), seed=0)
    theirs, mine = (m.base_model.embed_tokens_per_layer.weight for m in (of.model, draft.model))
    width = text_config(of.model).hidden_size_per_layer_input
    assert mine.shape[1] == 2 * width
    assert torch.equal(mine[:, width:], theirs[:, 4 * width : 5 * width])


def test_a_draft_of_a_model_that_also_sees_is_the_part_that_writes():
    draft = initialise_draft(tiny("Gemma-3 with eyes"), DraftSpec(layers=[0, 5]), seed=0)
    assert type(draft.model).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name for name in draft.model.state_dict())


def test_layers_that_depend_on_each_other_unseen_are_refused():
    """As a family whose settings do not show it would be: here one layer's weights are another's."""
    of = tiny("Qwen2-MoE, a dense one")
    with torch.random.fork_rng(devices=[]):
        other = shallow_model(of.model, [0, 5]).eval()
    with pytest.raises(DraftbenchError, match="does not compute what they compute in the target"):
        check_copied(of.model, other, [0, 5])


def test_a_setting_left_alone_would_be_caught(monkeypatch: pytest.MonkeyPatch):
    """What every family that is not known here relies on: the comparison, layer by layer."""
    monkeypatch.setattr(
        "engine.models.shallow.settings_of_layers",
        lambda settings, layers, depth, count: {**settings, count: len(layers)},
    )
    for name in ("DeepSeek-V3, dense first", "Qwen2-MoE, a dense one", "Llama-4, sparse by name"):
        with pytest.raises(DraftbenchError, match="a draft cannot be made of layers"):
            initialise_draft(tiny(name), DraftSpec(layers=[1, 3]), seed=0)


@pytest.mark.parametrize(
    ("settings", "layers", "expected"),
    [
        ({"first_k_dense_replace": 3}, [0, 2, 5], {"first_k_dense_replace": 2}),
        ({"first_k_dense_replace": 0}, [0, 5], {"first_k_dense_replace": 0}),
        ({"num_kv_shared_layers": 2}, [1, 3, 5], {"num_kv_shared_layers": 1}),
        ({"mlp_only_layers": [0, 1, 2, 3, 4, 5]}, [1, 4], {"mlp_only_layers": [0, 1]}),  # as long as the model is deep
        (
            {"mlp_only_layers": [1], "decoder_sparse_step": 2},
            [0, 1, 3],
            {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1},
        ),
        ({"moe_layers": [1, 3, 5]}, [0, 3, 4], {"moe_layers": [1]}),
        ({"layer_types": list("abcdef")}, [0, 4], {"layer_types": ["a", "e"]}),
        ({"mtp_layer_types": list("abcdef")}, [0, 4], {"mtp_layer_types": list("abcdef")}),
        ({"eos_token_id": [1, 2, 3, 4, 5, 6]}, [0, 4], {"eos_token_id": [1, 2, 3, 4, 5, 6]}),
        ({"intermediate_size": [1, 2, 3, 4, 5, 6]}, [0, 4], {"intermediate_size": [1, 5]}),
        ({"intermediate_size": 64}, [0, 4], {"intermediate_size": 64}),
        ({"per_layer_config": {"1": {"w": 8}, 4: {"w": 9}}}, [1, 4], {"per_layer_config": {0: {"w": 8}, 1: {"w": 9}}}),
        ({"num_nextn_predict_layers": 1}, [0], {"num_nextn_predict_layers": 1}),
    ],
)
def test_settings_that_speak_of_layers_follow_them(settings: dict[str, Any], layers: list[int], expected: Any):
    result = settings_of_layers({"num_hidden_layers": 6, "vocab_size": 6, **settings}, layers, 6, "num_hidden_layers")
    assert result == {"num_hidden_layers": len(layers), "vocab_size": 6, **expected}


def test_settings_given_are_not_changed():
    given = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "rope": {"theta": 1}}
    settings_of_layers(given, [0], 3, "num_hidden_layers")["rope"]["theta"] = 2
    assert given == {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "rope": {"theta": 1}}


def test_what_a_layer_reuses_is_known_from_the_configuration():
    assert needed_layers(small_config("gemma3n_text", **MIXED["Gemma-3n"][1])) == {4: 2, 5: 3}
    assert needed_layers(small_config("glm_moe_dsa", **MIXED["GLM-MoE-DSA, shared indexers"][1])) == {
        1: 0,
        2: 0,
        4: 3,
        5: 3,
    }
    assert needed_layers(small_config("llama")) == {}
    assert with_needed([0, 5], {4: 2, 5: 3}) == [0, 3, 5]
