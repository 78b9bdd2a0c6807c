"""Model folders of strangers: whole, of a causal language model, and of a size that fits their weights."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.chat import template_date
from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.schema import DraftSpec, ModelSpec
from engine.errors import DraftbenchError
from engine.models.draft import initialise_draft
from engine.models.load import load_model, load_tokenizer
from engine.models.locate import locate_model
from tests.conftest import CHATML, byte_tokenizer, tiny_llama

NESTED = "{% for i in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(model=str(folder), dtype="float32", device="cpu")


@pytest.fixture
def folder(tiny_target_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_target_folder, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, *reasons: str) -> None:
    began = time.monotonic()
    with pytest.raises(DraftbenchError, match="could not load") as caught:
        load_model(spec(folder))
    for reason in reasons:
        assert reason in str(caught.value)
    assert time.monotonic() - began < 60


CHANGED = {
    "left over": (
        lambda s: {**s, "score.weight": torch.ones(1, 32)},
        "hold more than the model has: 1 tensors, such as score",
    ),
    "a layer more": (
        lambda s: {**s, "model.layers.4.mlp.up_proj.weight": torch.ones(64, 32)},
        "hold more than the model has",
    ),
    "missing": (lambda s: {k: v for k, v in s.items() if "layers.2.mlp.up" not in k}, "lack 1 tensors"),
    "a wrapper's": (lambda s: {f"module.{k}": v for k, v in s.items()}, "tensors"),
    "whole numbers": (lambda s: {**s, "model.norm.weight": torch.ones(32, dtype=torch.int8)}, "is stored as I8"),
    "narrow norms": (lambda s: {k: v[:20].clone() if "layernorm" in k else v for k, v in s.items()}, "RuntimeError"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "reason"), CHANGED.values(), ids=CHANGED)
def test_a_checkpoint_that_is_not_the_whole_model_is_refused(folder: Path, change: Any, reason: str):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, reason)


def test_tables_that_older_versions_saved_are_no_reason_to_refuse(folder: Path):
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(spec(folder)).vocab_rows == 258


def test_fewer_layers_than_the_file_has_are_refused(folder: Path):
    change_config(folder, num_hidden_layers=3)
    refused(folder, "hold more than the model has", "layers.3")


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaModel"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_another_head_or_none_is_no_target(folder: Path, kind: str, tied: bool):
    import transformers

    body = tiny_llama(tie_word_embeddings=tied)
    other = getattr(transformers, kind)(body.config)
    other.load_state_dict(
        {k.removeprefix("model.") if kind == "LlamaModel" else k: v for k, v in body.state_dict().items()}, strict=False
    )
    other.save_pretrained(folder)
    if kind == "LlamaModel" and tied:  # nothing is missing: the head is the embeddings
        ids = torch.tensor([[0, 5, 7]])
        assert torch.equal(load_model(spec(folder)).model(input_ids=ids).logits, body(input_ids=ids).logits)
    else:
        refused(folder, kind)


def test_an_encoder_is_no_target(folder: Path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=258,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    refused(folder, "sees the tokens that come after")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers"),
        ({"num_hidden_layers": 1500}, "1,500 layers, and its weights are"),
        ({"num_hidden_layers": "4"}, "config.json"),
        ({"vocab_size": 10**9}, "parameters, and its files hold"),
        ({"hidden_size": 2**20}, "parameters, and its files hold"),
        ({"hidden_size": 512.0}, "512.0"),
        ({"hidden_size": None}, "config.json"),
        ({"model_type": "no_such_family"}, "no_such_family"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "asks for 1000000000 layers"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused_before_memory_is_taken(
    folder: Path, changes: dict[str, Any], reason: str
):
    change_config(folder, **changes)
    refused(folder, reason)


@pytest.mark.parametrize(
    ("how", "library"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "of_next_year"}, "this method is not known"),
        ("awq", "gptqmodel"),
    ],
)
def test_a_quantised_base_names_the_library_that_is_missing(folder: Path, how: Any, library: str):
    change_config(folder, quantization_config=how)
    refused(folder, library)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"]
)
@pytest.mark.parametrize(
    "replace",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.mkdir(),
    ],
    ids=["FIFO", "device", "dangling link", "link to itself", "folder"],
)
def test_only_regular_files_are_read(folder: Path, name: str, replace: Any):
    (folder / name).unlink()
    replace(folder / name)
    refused(folder, name)


def test_links_to_regular_files_are_read_as_in_the_hub_s_cache(folder: Path, tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    for file in list(folder.iterdir()):
        blob = tmp_path / "blobs" / file.name.encode().hex()
        file.rename(blob)
        file.symlink_to(blob)
    assert load_model(spec(folder)).vocab_rows == 258


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"a": "part.safetensors", "b": "other.safetensors"}, "other.safetensors, which is missing"),
        ({"a": "../model.safetensors"}, "not a file of this folder"),
        ({}, "names no files"),
        ([1], "cannot be read"),
    ],
)
def test_an_index_names_files_of_its_own_folder_that_are_there(folder: Path, named: Any, reason: str):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    refused(folder, reason)


def test_a_model_in_parts_loads_and_lacks_nothing(folder: Path):
    tiny_llama().save_pretrained(folder, max_shard_size="30KB")
    (folder / "model.safetensors").unlink()
    ids = torch.tensor([[0, 5, 7]])
    assert torch.equal(load_model(spec(folder)).model(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits)
    min(folder.glob("model-*.safetensors")).unlink()
    refused(folder, "which is missing")


@pytest.mark.parametrize("first", [True, False])
def test_a_tensor_in_two_files_is_refused_whichever_the_index_names(folder: Path, first: bool):
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    parts = [{name: whole[name] for name in names[:9]}, {name: whole[name] for name in names[9:]}]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    name = names[0] if first else names[-1]
    parts[int(first)][name] = torch.randn_like(whole[name])
    for file, part in zip(files, parts, strict=True):
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    refused(folder, f"{name} is in two of its files")


def test_a_head_of_its_own_beside_settings_that_call_it_tied_is_kept_and_copied(folder: Path):
    own = tiny_llama(tie_word_embeddings=False)
    own.save_pretrained(folder)
    change_config(folder, tie_word_embeddings=True)
    target = load_model(spec(folder))
    ids = torch.tensor([[0, 5, 7]])
    wanted = own(input_ids=ids).logits
    assert torch.equal(target.model(input_ids=ids).logits, wanted)
    draft = initialise_draft(target, DraftSpec(layers=[0, 1, 2, 3]), seed=0)
    assert torch.allclose(draft.model(input_ids=ids).logits, wanted, atol=1e-4)


def test_a_folder_with_two_saves_of_a_model_is_refused(folder: Path):
    part = folder / "model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": part.name}}))
    refused(folder, "two models")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model.safetensors"}}))
    load_model(spec(folder))


@pytest.mark.parametrize(
    "written", ["{", "[]", '{"eos_token_id": "1"}', '{"eos_token_id": [1, "2"]}', '{"eos_token_id": 1.0}']
)
def test_generation_settings_that_end_no_answer_are_refused_with_the_model(folder: Path, written: str):
    (folder / "generation_config.json").write_text(written)
    with pytest.raises(DraftbenchError, match=r"generation settings|as eos_token_id"):
        load_model(spec(folder))


@pytest.mark.parametrize("eos", [None, 5, [5, 7]])
def test_generation_settings_of_every_right_form_are_taken(folder: Path, eos: Any):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos, "suppress_tokens": [3]}))
    assert load_model(spec(folder)).stop_ids == {1, *([eos] if isinstance(eos, int) else eos or [])}


def test_a_model_folder_with_an_adapter_in_it_is_refused(folder: Path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with pytest.raises(DraftbenchError, match="is a PEFT adapter and a model") as caught:
        locate_model(spec(folder))
    assert "target.adapter" in caught.value.fix


def test_a_name_that_is_not_utf8_is_refused_in_words(folder: Path):
    odd = os.fsencode(folder) + b"-\xff"
    os.rename(folder, odd)
    with pytest.raises(DraftbenchError, match="not UTF-8") as caught:
        locate_model(spec(Path(os.fsdecode(odd))))
    str(caught.value).encode()


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"model": 1}'])
def test_a_tokenizer_that_cannot_be_read_is_refused_in_words(folder: Path, text: str):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DraftbenchError, match="could not load the tokenizer"):
        load_tokenizer(spec(folder))


def with_tokens(folder: Path, template: str, *added: str) -> None:
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_ids_beyond_the_embeddings_are_refused_where_every_prompt_has_them(folder: Path):
    with_tokens(folder, CHATML.replace("<|im_end|>", "<|eot|>"), "<|eot|>")
    refused(folder, "1 tokens beyond the model's 258 embeddings, such as '<|eot|>' (258)")


def test_a_vocabulary_larger_than_the_embeddings_is_refused(folder: Path):
    tiny_llama(vocab=200).save_pretrained(folder)
    refused(folder, "58 tokens beyond the model's 200 embeddings")


def test_an_added_token_that_nobody_writes_is_refused_in_the_prompt_that_holds_it(folder: Path):
    with_tokens(folder, CHATML, "<|rare|>")
    loaded = load_model(spec(folder))
    limits = {"context_tokens": None, "max_new_tokens": 0, "rows": loaded.input_rows}
    assert render(loaded.tokenizer, Prompt("p", ({"role": "user", "content": "hi"},)), **limits)
    with pytest.raises(
        DraftbenchError, match=r"prompt 'p' contains '<\|rare\|>', which is id 258, but the target has 258"
    ):
        render(loaded.tokenizer, Prompt("p", ({"role": "user", "content": "a <|rare|> b"},)), **limits)


def test_padding_rows_of_the_embeddings_are_no_reason_to_refuse(folder: Path):
    tiny_llama(vocab=300).save_pretrained(folder)
    assert load_model(spec(folder)).input_rows == 300


ENDLESS = {
    "loops": NESTED,
    "multiplies": "{{ 'a' * 10000000000 }}",
    "multiplies later": "{% set n = 99999 %}{{ 'a' * (n * n) }}",
    "doubles": "{% set n = namespace(x='aaaa') %}{% for m in messages %}{% set n.x = n.x ~ n.x %}{% endfor %}",
}


@pytest.mark.slow
@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_refused_with_the_tokenizer(folder: Path, template: str):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DraftbenchError, match=r"cannot be used: it (runs longer than|writes more than)"):
        load_tokenizer(spec(folder))


def test_an_overlong_template_is_not_even_tried(folder: Path):
    (folder / "chat_template.jinja").write_text("x" * 1_000_001)
    with pytest.raises(DraftbenchError, match="1,000,001 characters"):
        load_tokenizer(spec(folder))


def test_that_a_template_ends_is_tried_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from engine.chat import template_safety

    tried: list[str] = []
    monkeypatch.setattr(template_safety, "_in_child", lambda text, marks: tried.append(text) or "")
    own = CHATML + "{# tried once #}"
    (folder / "chat_template.jinja").write_text(own)
    load_tokenizer(spec(folder))
    load_tokenizer(spec(folder))
    template_safety._failure.cache_clear()  # another process
    load_tokenizer(spec(folder))
    assert tried == [own]


def test_a_template_that_loops_over_a_prompt_is_stopped_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_date, "_SECONDS", 0.3)
    tokenizer = byte_tokenizer("{% if messages|length > 90 %}" + NESTED + "{% endif %}")
    turns = tuple({"role": "user", "content": "a"} for _ in range(91))
    with pytest.raises(DraftbenchError, match="longer than"):
        render(tokenizer, Prompt("p", turns), context_tokens=None, max_new_tokens=0)
