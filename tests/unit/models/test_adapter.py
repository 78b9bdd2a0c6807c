"""Adapters: merged they are what they are beside their base, in every form that PEFT saves; or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.models.adapter import other_base
from engine.models.head import check_head
from engine.models.load import load_model, load_tokenizer, model_fingerprint
from tests.conftest import CHATML, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.slow

IDS = torch.tensor([[0, 5, 7, 90, 33]])
LAYERS = ["q_proj", "down_proj"]


def base(folder: Path, tied: bool = True) -> Path:
    path = folder / f"base-{tied}"
    if not path.exists():
        tiny_llama(tie_word_embeddings=tied).save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
    return path


def save_adapter(folder: Path, config: Any, tied: bool = True) -> tuple[Path, torch.Tensor]:
    """An adapter whose every parameter was trained a little, and the logits of the tiny target with it."""
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        adapted = get_peft_model(tiny_llama(tie_word_embeddings=tied), config).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.dim() > 0:
                parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return folder / "adapter", adapted(input_ids=IDS).logits


def load(folder: Path, adapter: Path, tied: bool = True, dtype: str = "float32") -> Any:
    spec = ModelSpec(model=str(base(folder, tied)), adapter=str(adapter), dtype=dtype, device="cpu")
    return load_model(spec)


def lora(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": LAYERS, **settings})


MERGEABLE = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}},
    "head": {"target_modules": [*LAYERS, "lm_head"]},
    "embeddings": {"target_modules": [*LAYERS, "embed_tokens"]},
    "both ends": {"target_modules": ["lm_head", "embed_tokens"]},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens"]},
    "a norm of its own": {"modules_to_save": ["norm"]},
    "single tokens": {"trainable_token_indices": [3, 200]},
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("settings", MERGEABLE.values(), ids=MERGEABLE)
def test_a_merged_adapter_gives_its_own_logits(tmp_path: Path, settings: dict[str, Any], tied: bool):
    path, wanted = save_adapter(tmp_path, lora(**settings), tied)
    loaded = load(tmp_path, path, tied)
    torch.testing.assert_close(loaded.model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    ends = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert loaded.model.config.tie_word_embeddings == (ends[0] is ends[1])  # a draft is made of this configuration
    check_head(loaded.model)


def test_both_ends_of_a_tied_base_get_their_own_change(tmp_path: Path):
    path, wanted = save_adapter(tmp_path, lora(target_modules=["lm_head"]))
    loaded = load(tmp_path, path)
    assert torch.equal(loaded.model.get_input_embeddings().weight, tiny_llama().get_input_embeddings().weight)
    assert float((tiny_llama()(input_ids=IDS).logits - wanted).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "IA3", "OFT"])
def test_other_kinds_that_merge_are_held_to_the_same(tmp_path: Path, kind: str):
    import peft

    more = {"IA3": {"feedforward_modules": ["down_proj"]}, "OFT": {"oft_block_size": 4}}.get(kind, {"r": 4})
    config = getattr(peft, f"{kind}Config")(target_modules=LAYERS, **more)
    path, wanted = save_adapter(tmp_path, config)
    torch.testing.assert_close(load(tmp_path, path).model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_merged_adapter_is_as_near_as_rounding_allows(tmp_path: Path):
    path, wanted = save_adapter(tmp_path, lora())
    result = load(tmp_path, path, dtype="bfloat16").model(input_ids=IDS).logits.float()
    assert float((result - wanted).abs().max()) < 0.08 * float(wanted.abs().max())


def rewritten(path: Path, change: Any) -> None:
    file = path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


DAMAGE = {
    "of a wrapper": (
        lambda s: {k.replace("model.layers", "model.language_model.layers"): v for k, v in s.items()},
        "fit nothing",
    ),
    "layer lost": (lambda s: {k: v for k, v in s.items() if ".layers.3." not in k}, "are missing"),
    "one lost": (lambda s: dict(list(s.items())[1:]), "are missing"),
    "one more": (lambda s: {**s, "base_model.model.other.lora_A.weight": torch.ones(4, 32)}, "fit nothing"),
    "empty": (lambda s: {}, "are missing"),
    "narrower": (lambda s: {k: v[:2].clone() if "lora_A" in k else v for k, v in s.items()}, "size mismatch"),
    "lost in the save": (
        lambda s: {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in s.items()},
        "changes nothing",
    ),
    "no numbers": (lambda s: {k: v * float("nan") for k, v in s.items()}, "seems to be broken"),
}


@pytest.mark.parametrize(("change", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_an_adapter_that_does_not_fit_as_a_whole_is_refused(tmp_path: Path, change: Any, reason: str):
    path, _ = save_adapter(tmp_path, lora())
    rewritten(path, change)
    with pytest.raises(DraftbenchError, match="with adapter") as caught:
        load(tmp_path, path)
    assert reason in str(caught.value)


def test_a_module_that_the_adapter_replaces_and_lacks_is_refused(tmp_path: Path):
    path, _ = save_adapter(tmp_path, lora(modules_to_save=["norm"]))
    rewritten(path, lambda s: {k: v for k, v in s.items() if "norm" not in k})
    with pytest.raises(DraftbenchError, match=r"lacks the tensor .*norm"):
        load(tmp_path, path)


def test_a_merge_that_changes_the_logits_is_refused(tmp_path: Path):
    path, _ = save_adapter(tmp_path, lora(layer_replication=[[0, 3], [1, 4]]))
    with pytest.raises(DraftbenchError, match="different logits"):
        load(tmp_path, path)


@pytest.mark.parametrize("kind", ["PromptTuning", "PrefixTuning", "PromptEncoder"])
def test_what_cannot_be_merged_is_refused_in_words(tmp_path: Path, kind: str):
    import peft
    from peft import get_peft_model

    config = getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(DraftbenchError, match="cannot be merged into its weights"):
        load(tmp_path, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"task_type": "SEQ_CLS"}, "not a language model"),
        ({"alora_invocation_tokens": [1]}, "invocation tokens"),
        ({"peft_type": "OF_NEXT_YEAR"}, "not known to the installed PEFT"),
        ({"of_next_year": True}, "which would ignore it"),
        ({"lora_bias": True}, "PEFT cannot load it"),
    ],
)
def test_settings_that_no_merge_can_keep_are_refused(tmp_path: Path, settings: dict[str, Any], reason: str):
    path, _ = save_adapter(tmp_path, lora(lora_bias="lora_bias" in settings))
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(DraftbenchError) as caught:
        load(tmp_path, path)
    assert reason in str(caught.value)


def spec_of(folder: Path, adapter: Path) -> ModelSpec:
    return ModelSpec(model=str(base(folder)), adapter=str(adapter), dtype="float32", device="cpu")


OWN = CHATML.replace("assistant", "helper")


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_chat_template_of_an_adapter_writes_its_prompts(tmp_path: Path, place: str):
    path, _ = save_adapter(tmp_path, lora())
    plain = model_fingerprint(spec_of(tmp_path, path))
    assert load_tokenizer(spec_of(tmp_path, path)).chat_template == CHATML
    (path / place).write_text(OWN if place.endswith("jinja") else json.dumps({"chat_template": OWN}))
    assert load_tokenizer(spec_of(tmp_path, path)).chat_template == OWN
    assert load_model(spec_of(tmp_path, path)).tokenizer.chat_template == OWN
    assert model_fingerprint(spec_of(tmp_path, path)) != plain


def test_named_templates_of_an_adapter_are_read_by_their_names(tmp_path: Path):
    path, _ = save_adapter(tmp_path, lora())
    named = [{"name": "short", "template": CHATML}, {"name": "default", "template": OWN}]
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    tokenizer = load_tokenizer(spec_of(tmp_path, path))
    assert tokenizer.get_chat_template() == OWN
    asked = Prompt("p", ({"role": "user", "content": "hi"},))
    assert "helper" in tokenizer.decode(render(tokenizer, asked, context_tokens=None, max_new_tokens=1))
    named[1]["name"] = "long"
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    with pytest.raises(DraftbenchError, match=r"its templates are named long, short, and none is 'default'"):
        load_tokenizer(spec_of(tmp_path, path))


@pytest.mark.parametrize("odd", [["text"], [{"name": "default"}], 7])
def test_a_template_that_is_no_text_is_refused(tmp_path: Path, odd: Any):
    path, _ = save_adapter(tmp_path, lora())
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": odd}))
    with pytest.raises(DraftbenchError, match=r"chat template .* cannot be used"):
        load_tokenizer(spec_of(tmp_path, path))


def test_the_tokenizer_of_an_adapter_is_used_if_it_means_the_same(tmp_path: Path):
    path, _ = save_adapter(tmp_path, lora())
    byte_tokenizer(OWN).save_pretrained(path)
    assert load_tokenizer(spec_of(tmp_path, path)).chat_template == OWN
    other = byte_tokenizer()
    vocab = other.get_vocab()
    raw = json.loads((path / "tokenizer.json").read_text())
    raw["model"]["vocab"] = {**vocab, "a": vocab["b"], "b": vocab["a"]}
    (path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(DraftbenchError, match="other ids than its base: 'a' is"):
        load_model(spec_of(tmp_path, path))


def test_a_tokenizer_that_grew_beyond_the_base_is_refused_where_its_template_writes_the_new_token(tmp_path: Path):
    path, _ = save_adapter(tmp_path, lora())
    grown = byte_tokenizer(CHATML.replace("<|im_start|>", "<|turn|>"))
    grown.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    grown.save_pretrained(path)
    with pytest.raises(
        DraftbenchError, match=r"1 tokens beyond the model's 258 embeddings, such as '<\|turn\|>' \(258\)"
    ):
        load_model(spec_of(tmp_path, path))


@pytest.mark.parametrize(
    ("named", "model", "other"),
    [
        ("meta-llama/Llama-3.1-8B", "hub:org/Llama-3.1-8B-Instruct", False),  # one name within the other
        ("meta-llama/Llama-3.1-8B", "/models/llama_3.1_8b/", False),
        ("C:\\models\\Qwen2-7B", "Qwen2-7B", False),
        ("mistralai/Mistral-7B-v0.1", "hub:mistralai/Mistral-7B-Instruct-v0.3", True),
        (None, "anything", False),
        ("", "anything", False),
    ],
)
def test_an_adapter_that_names_another_base_is_noticed(tmp_path: Path, named: Any, model: str, other: bool):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    assert other_base(tmp_path, model) == (named if other else None)
