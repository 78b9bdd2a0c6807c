"""Drafts: which layers they are made of, what they share with their target, and how they are kept on disk."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from engine.config.schema import DraftSpec
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.draft import (
    Draft,
    initialise_draft,
    load_draft,
    own_state,
    parameter_counts,
    save_draft,
)
from engine.models.layers import evenly_spaced, layer_indices
from engine.models.load import LoadedModel
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_pair import loaded

pytestmark = pytest.mark.slow

IDS = torch.tensor([[0, 5, 7, 90, 33, 12, 250, 1, 4]])


def target(name: str = "target", **changes: Any) -> LoadedModel:
    return loaded(tiny_llama(**changes), name)


def random_family(kind: Any, config: Any) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = kind(config).eval()
        for name, parameter in model.named_parameters():  # biases start at zero, which would hide them
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        return loaded(model.requires_grad_(False), kind.__name__)


SHAPE = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def phi(layers: int = 3) -> LoadedModel:
    """A model whose output head has a bias and is not tied."""
    return random_family(
        PhiForCausalLM, PhiConfig(**SHAPE, num_hidden_layers=layers, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    )


def initial(of: LoadedModel, seed: int = 0, **spec: Any) -> Draft:
    return initialise_draft(of, DraftSpec(**spec), seed=seed)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def save_folder(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def shake(draft: Draft) -> Draft:
    """As after some training: every trainable tensor is moved a little."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in draft.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return draft


@pytest.mark.parametrize("total", [1, 2, 3, 5, 12, 30, 61])
def test_evenly_spaced_layers_are_distinct_ascending_and_reach_both_ends(total: int):
    for count in range(1, total + 1):
        layers = evenly_spaced(count, total)
        assert len(set(layers)) == count
        assert layers == sorted(layers)
        assert layers[0] == 0
        if count > 1:
            assert layers[-1] == total - 1
            gaps = [b - a for a, b in pairwise(layers)]
            assert max(gaps) - min(gaps) <= 1
    assert evenly_spaced(total, total) == list(range(total))


def test_evenly_spaced_layers_are_the_nearest_to_even():
    assert evenly_spaced(4, 30) == [0, 10, 19, 29]
    assert evenly_spaced(1, 30) == [0]


@pytest.mark.parametrize("count", [0, -1, 5])
def test_a_number_of_layers_the_target_cannot_give_is_refused(count: int):
    with pytest.raises(DraftbenchError, match="the target has 4 layers"):
        evenly_spaced(count, 4)


@pytest.mark.parametrize("layers", [[], [2, 1], [0, 0], [0, 4], [-1, 2]])
def test_layer_indices_that_do_not_fit_are_refused(layers: list[int]):
    with pytest.raises(DraftbenchError, match="does not fit a target of 4 layers"):
        layer_indices(layers, 4)
    assert layer_indices([1, 3], 4) == [1, 3]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_draft_of_all_layers_is_its_target(share: bool, tied: bool):
    of = target(tie_word_embeddings=tied)
    draft = initial(of, layers=4, share_embeddings=share)
    assert torch.equal(logits(draft.model), logits(of.model))


def test_chosen_layers_are_copied_in_order_and_nothing_else():
    of = target()
    draft = initial(of, layers=[1, 3])
    theirs, mine = of.model.state_dict(), draft.model.state_dict()
    assert draft.info.layers == [1, 3]
    assert draft.model.config.num_hidden_layers == 2
    assert sum(".layers.0." in name for name in mine) == sum(".layers.3." in name for name in theirs) > 0
    assert not any(".layers.2." in name for name in mine)
    for name, tensor in mine.items():
        source = name.replace(".layers.1.", ".layers.3.").replace(".layers.0.", ".layers.1.")
        assert torch.equal(tensor, theirs[source]), name


def test_a_draft_of_a_half_precision_target_trains_in_float32():
    of = loaded(tiny_llama().bfloat16())
    draft = initial(of, layers=2)
    assert {p.dtype for p in draft.model.parameters()} == {torch.float32}
    assert torch.equal(draft.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight.float())


def test_training_the_draft_cannot_reach_the_target():
    of = target()
    before = {name: tensor.clone() for name, tensor in of.model.state_dict().items()}
    shake(initial(of, layers=2, share_embeddings=False))
    assert all(torch.equal(tensor, before[name]) for name, tensor in of.model.state_dict().items())


@pytest.mark.parametrize(("share", "frozen"), [(True, True), (False, False)])
def test_shared_embeddings_and_head_are_frozen_and_the_rest_learns(share: bool, frozen: bool):
    draft = initial(target(tie_word_embeddings=False), layers=2, share_embeddings=share)
    still = {name for name, p in draft.model.named_parameters() if not p.requires_grad}
    assert still == ({"model.embed_tokens.weight", "lm_head.weight"} if frozen else set())


def test_per_layer_settings_follow_the_layers_they_belong_to():
    """SmolLM3 leaves rotary positions out of some layers and lists which; a draft of those must leave them out too."""
    config = SmolLM3Config(
        **SHAPE,
        num_hidden_layers=4,
        num_key_value_heads=2,
        no_rope_layers=[1, 0, 1, 0],
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    draft = initial(random_family(SmolLM3ForCausalLM, config), layers=[1, 2])
    assert draft.model.config.no_rope_layers == [0, 1]
    assert [bool(layer.self_attn.use_rope) for layer in draft.model.model.layers] == [False, True]


def test_layer_kinds_follow_the_layers_they_belong_to():
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = Qwen3Config(
        **SHAPE,
        num_hidden_layers=4,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=kinds,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
    )
    draft = initial(random_family(Qwen3ForCausalLM, config), layers=[1, 3])
    assert draft.model.config.layer_types == ["full_attention", "full_attention"]


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    of = target()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (initial(of, seed=seed, init="random", layers=2) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(logits(one.model), logits(same.model))
    assert not torch.allclose(logits(one.model), logits(other.model))
    assert torch.equal(one.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight)
    assert one.info.layers == []


def test_random_weights_without_sharing_are_random_everywhere():
    of = target()
    draft = initial(of, init="random", layers=2, share_embeddings=False)
    assert not torch.allclose(draft.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_draft_comes_back_bit_for_bit(tmp_path: Path, share: bool, tied: bool):
    of = target(tie_word_embeddings=tied)
    draft = shake(initial(of, layers=2, share_embeddings=share))
    save_draft(tmp_path, draft)
    again = load_draft(tmp_path, of)
    assert again.info == draft.info
    assert torch.equal(logits(again.model), logits(draft.model))
    assert not any(p.requires_grad for p in again.model.parameters())
    save_draft(tmp_path / "twice", again)
    assert sha256_file(tmp_path / "twice" / "draft.safetensors") == sha256_file(tmp_path / "draft.safetensors")


def test_a_head_bias_belongs_to_what_is_shared(tmp_path: Path):
    of = phi()
    draft = shake(initial(of, layers=[0, 2]))
    save_draft(tmp_path, draft)
    half = loaded(phi().model.bfloat16(), of.fingerprint)
    again = load_draft(tmp_path, half, dtype=torch.float32)
    head = again.model.get_output_embeddings()
    assert torch.equal(head.bias, half.model.get_output_embeddings().bias.float())
    assert torch.equal(logits(load_draft(tmp_path, of).model), logits(draft.model))


@pytest.mark.parametrize("tied", [True, False])
def test_shared_tensors_are_not_stored_and_are_the_targets_own_after_loading(tmp_path: Path, tied: bool):
    of = target(tie_word_embeddings=tied)
    save_draft(tmp_path, initial(of, layers=2))
    with safe_open(tmp_path / "draft.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert names
    assert not any("embed_tokens" in name or "lm_head" in name for name in names)
    draft = load_draft(tmp_path, of)
    for mine, theirs in (
        (draft.model.get_input_embeddings(), of.model.get_input_embeddings()),
        (draft.model.get_output_embeddings(), of.model.get_output_embeddings()),
    ):
        assert mine.weight.data_ptr() == theirs.weight.data_ptr()


def test_a_tied_draft_that_shares_nothing_stores_its_embedding_once(tmp_path: Path):
    draft = initial(target(), layers=2, share_embeddings=False)
    save_draft(tmp_path, draft)
    stored = load_file(tmp_path / "draft.safetensors")
    assert "model.embed_tokens.weight" in stored
    assert "lm_head.weight" not in stored
    assert sum(t.numel() for t in stored.values()) == parameter_counts(draft)["own"] == parameter_counts(draft)["total"]


def test_parameter_counts_tell_own_from_shared():
    of = target()
    counts = parameter_counts(initial(of, layers=2))
    assert counts["total"] - counts["own"] == of.model.get_input_embeddings().weight.numel()


def test_a_draft_can_be_loaded_in_another_precision_than_its_target(tmp_path: Path):
    of = target()
    save_draft(tmp_path, initial(of, layers=4))
    half = load_draft(tmp_path, of, dtype=torch.bfloat16)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert torch.equal(half.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight.bfloat16())
    assert of.dtype == torch.float32


def flip_a_byte(folder: Path) -> None:
    raw = bytearray((folder / "draft.safetensors").read_bytes())
    raw[-3] ^= 1
    (folder / "draft.safetensors").write_bytes(bytes(raw))


def cut_in_half(folder: Path) -> None:
    raw = (folder / "draft.safetensors").read_bytes()
    (folder / "draft.safetensors").write_bytes(raw[: len(raw) // 2])


def forget_a_tensor(folder: Path) -> None:
    """A tensor is gone though the card's hash agrees, as after a faulty tool rewrote both."""
    state = load_file(folder / "draft.safetensors")
    state.pop("model.norm.weight")
    save_file(state, folder / "draft.safetensors")
    card = json.loads((folder / "draft.json").read_text())
    card["weights_sha256"] = sha256_file(folder / "draft.safetensors")
    (folder / "draft.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_byte, "damaged"),
        (cut_in_half, "damaged"),
        (forget_a_tensor, "does not fit its own configuration: model.norm.weight"),
        (lambda folder: (folder / "draft.json").unlink(), "holds no draft"),
        (lambda folder: (folder / "draft.safetensors").unlink(), "holds no draft"),
        (lambda folder: (folder / "draft.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "draft.json").write_text("{}"), "damaged"),
    ],
)
def test_a_damaged_draft_folder_is_refused(tmp_path: Path, damage: Any, told: str):
    of = target()
    save_draft(tmp_path, initial(of, layers=2))
    damage(tmp_path)
    with pytest.raises(DraftbenchError, match=told):
        load_draft(tmp_path, of)


def test_a_draft_that_shares_embeddings_is_refused_by_another_target(tmp_path: Path):
    save_draft(tmp_path, initial(target("mine"), layers=2))
    with pytest.raises(DraftbenchError, match="shares embeddings with another target"):
        load_draft(tmp_path, target("foreign", seed=1))


def test_a_draft_starts_from_another_runs_draft(tmp_path: Path):
    of = target()
    before = shake(initial(of, layers=[0, 2]))
    save_draft(tmp_path, before)
    draft = initialise_draft(of, DraftSpec(init="checkpoint", checkpoint="run-1"), seed=0, checkpoint=tmp_path)
    assert torch.equal(logits(draft.model), logits(before.model))
    assert {p.dtype for p in draft.model.parameters()} == {torch.float32}
    assert any(p.requires_grad for p in draft.model.parameters())


def test_unsharing_the_embeddings_of_a_checkpoint_trains_and_keeps_a_copy(tmp_path: Path):
    """The draft of a run shared its embeddings; the next run trains them. The target's must not move."""
    of = target()
    before = of.model.get_input_embeddings().weight.clone()
    save_draft(tmp_path / "a", initial(of, layers=2))
    spec = DraftSpec(init="checkpoint", checkpoint="a", share_embeddings=False)
    draft = shake(initialise_draft(of, spec, seed=0, checkpoint=tmp_path / "a"))
    assert torch.equal(of.model.get_input_embeddings().weight, before)
    assert not torch.equal(draft.model.get_input_embeddings().weight, before)
    save_draft(tmp_path / "b", draft)
    assert torch.equal(logits(load_draft(tmp_path / "b", of).model), logits(draft.model))


def test_a_checkpoint_of_another_target_becomes_a_draft_of_this_one(tmp_path: Path):
    """A generic draft, made for a generic target, is adapted to a domain target of the same family."""
    generic, domain = target("generic"), target("domain", seed=1)
    first = initial(generic, layers=2, share_embeddings=False)
    save_draft(tmp_path / "a", first)
    spec = DraftSpec(init="checkpoint", checkpoint="a", share_embeddings=False)
    draft = initialise_draft(domain, spec, seed=0, checkpoint=tmp_path / "a")
    assert torch.equal(logits(draft.model), logits(first.model))
    save_draft(tmp_path / "b", draft)
    assert torch.equal(logits(load_draft(tmp_path / "b", domain).model), logits(draft.model))


@pytest.mark.parametrize("tie", [True, False])
def test_a_checkpoint_keeps_its_own_embeddings_or_is_refused(tmp_path: Path, tie: bool):
    """What the layers were trained with is not replaced by the target's, of a draft of ours and of any other model."""
    of = target(tie_word_embeddings=tie)
    save_draft(tmp_path / "ours", shake(initial(of, layers=2, share_embeddings=False)))
    save_folder(tmp_path / "plain", tiny_llama(layers=1, seed=8, tie_word_embeddings=tie))
    for name, given in (("ours", tmp_path / "ours"), ("plain", None)):
        asked = DraftSpec(init="checkpoint", checkpoint=str(tmp_path / name))
        with pytest.raises(DraftbenchError, match=r"25[78] of 258 rows differ") as caught:
            initialise_draft(of, asked, seed=0, checkpoint=given)
        assert "draft.share_embeddings: false" in caught.value.fix
        begun = initialise_draft(of, asked, seed=0, checkpoint=given, begun=True)
        assert torch.equal(begun.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight)


def test_a_head_of_its_own_is_not_replaced_either(tmp_path: Path):
    of = target(tie_word_embeddings=False)
    other = copy.deepcopy(of.model)
    other.get_output_embeddings().weight.data[7] += 1
    folder = save_folder(tmp_path / "tuned", other)
    with pytest.raises(DraftbenchError, match=r"the output rows of the checkpoint differ .* 1 of 258 rows differ"):
        initialise_draft(of, DraftSpec(init="checkpoint", checkpoint=str(folder)), seed=0)


def test_a_draft_starts_from_a_plain_model_folder(tmp_path: Path):
    of = target()
    small = tiny_llama(layers=1, seed=8, hidden_size=16)
    folder = save_folder(tmp_path / "small", small)
    spec = DraftSpec(init="checkpoint", checkpoint=str(folder), share_embeddings=False)
    draft = initialise_draft(of, spec, seed=0)
    assert torch.equal(logits(draft.model), logits(small))
    save_draft(tmp_path / "kept", draft)
    assert torch.equal(logits(load_draft(tmp_path / "kept", of).model), logits(small))
    assert own_state(draft.model, draft.info).keys() >= {"model.embed_tokens.weight"}


def test_a_plain_folder_with_the_targets_embeddings_can_share_them(tmp_path: Path):
    of = target()
    small = tiny_llama(layers=1, seed=8)
    small.get_input_embeddings().weight.data.copy_(of.model.get_input_embeddings().weight.bfloat16())  # saved so
    folder = save_folder(tmp_path / "small", small)
    draft = initialise_draft(of, DraftSpec(init="checkpoint", checkpoint=str(folder)), seed=0)
    assert draft.info.share_embeddings
    assert torch.equal(draft.model.get_input_embeddings().weight, of.model.get_input_embeddings().weight)


def test_embeddings_of_another_width_cannot_be_shared(tmp_path: Path):
    folder = save_folder(tmp_path / "small", tiny_llama(layers=1, hidden_size=16))
    with pytest.raises(DraftbenchError, match=r"\(258, 16\), the target's \(258, 32\)") as caught:
        initialise_draft(target(), DraftSpec(init="checkpoint", checkpoint=str(folder)), seed=0)
    assert "share_embeddings: false" in caught.value.fix


def test_a_tied_draft_cannot_share_two_different_tensors(tmp_path: Path):
    """One tensor cannot be both the target's embedding and its head: the loaded draft would not be the trained one."""
    folder = save_folder(tmp_path / "small", tiny_llama(layers=1))
    of = target(tie_word_embeddings=False)
    with pytest.raises(DraftbenchError, match="ties") as caught:
        initialise_draft(of, DraftSpec(init="checkpoint", checkpoint=str(folder)), seed=0)
    assert "share_embeddings: false" in caught.value.fix


def test_a_checkpoint_with_other_tokens_is_refused(tmp_path: Path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    folder = save_folder(tmp_path / "small", tiny_llama(layers=1, vocab=259), tokenizer)
    with pytest.raises(DraftbenchError, match="do not share a vocabulary"):
        initialise_draft(target(), DraftSpec(init="checkpoint", checkpoint=str(folder)), seed=0)
