"""Hostile model folders and adapters: damaged, foreign, endless, or not what they seem."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases.case import Case
from engine.errors import DraftbenchError

Damage = Callable[[Path], object]
NESTED = "{% for i in range(99999) %}" * 4 + "x" + "{% endfor %}" * 4

DOUBLING = "{{% set n = namespace(x='aaaa') %}}{{% for m in {} %}}{{% set n.x = n.x ~ n.x %}}{{% endfor %}}"


def cases() -> list[Case]:
    """Model folders, and adapters; what may load must give the logits of the model that was saved."""
    folders = [*_files(), *_weights(), *_tokenizers(), *_templates(), *_quantised()]
    return [
        Case("an untouched folder", _attempt(lambda folder: None, must="load")),
        *(Case(name, _attempt(damage)) for name, damage in folders),
        *(Case(name, _attempt(damage, same=False)) for name, damage in _settings()),
        *(Case(name, _attempt(damage, must="refuse")) for name, damage in _lost()),
        *(Case(f"adapter: {name}", _adapter(change, must)) for name, change, must in _adapters()),
        Case("a folder whose name is not UTF-8", _not_utf8),
        Case("rendering with a template that loops over a long prompt", _slow_prompt),
    ]


def _spec(path: Path | str, **more: Any) -> Any:
    from engine.config.schema import ModelSpec

    return ModelSpec(model=str(path), dtype="float32", device="cpu", **more)


def _save(folder: Path) -> None:
    from tests.conftest import byte_tokenizer, tiny_llama

    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def _attempt(damage: Damage, must: str = "either", *, same: bool = True) -> Callable[[Path], None]:
    """`same`: what loads must be the saved model; other settings may make another model of the same weights."""

    def attempt(work: Path) -> None:
        import torch

        from engine.models.load import load_model, model_fingerprint
        from engine.planning.prompt_check import check_prompts
        from tests.conftest import tiny_llama

        folder = work / "model"
        _save(folder)
        damage(folder)
        (work / "p.jsonl").write_text('{"prompt": "hi"}\n')
        refusals = []
        for use in (
            lambda: load_model(_spec(folder)),
            lambda: check_prompts([str(work / "p.jsonl")], str(folder), skip_bad=False),
            lambda: model_fingerprint(_spec(folder)),
        ):
            try:
                loaded = use()
            except DraftbenchError as error:
                refusals.append(error)
            else:
                if hasattr(loaded, "model"):
                    ids = torch.tensor([[0, 5, 7, 90, 33]])
                    off = float((loaded.model(input_ids=ids).logits - tiny_llama()(input_ids=ids).logits).abs().max())
                    assert must != "refuse", f"loaded, {off:.3g} from the model that was saved"
                    assert off < 1e-4 or not same, f"loaded without a word, {off:.3g} from the model that was saved"
        assert not (must == "load" and refusals), f"refused: {refusals}"
        if refusals:
            raise refusals[0]

    return attempt


def _change(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _settings() -> Iterator[tuple[str, Damage]]:
    values: dict[str, tuple[Any, ...]] = {
        "num_hidden_layers": (10**9, 1500, 2, 0, -1, "4", 4.0, None, [4], True, 10**400),
        "hidden_size": (32.0, "32", None, 10**9, 0, 2**62),
        "vocab_size": (10**9, 10**12, 0, None, 100),
        "intermediate_size": (10**9, 63),
        "num_attention_heads": (0, 3, 10**9, "many"),
        "num_key_value_heads": (3, 0),
        "head_dim": (10**9, 7),
        "max_position_embeddings": (10**15, -1, "long"),
        "rope_parameters": (None, "none", {"rope_type": "nonsense"}, {"rope_theta": 0}, [1]),
        "model_type": ("no_such_family", "bert", "gpt2", 7, None, "../../x"),
        "architectures": (["LlamaForSequenceClassification"], "Llama", [7]),
        "hidden_act": ("rm -rf", None),
        "dtype": ("float4096", 5),
        "tie_word_embeddings": ("no", None),
        "auto_map": ({"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E", "AutoTokenizer": ["evil.E", None]}, 3),
        "layer_types": (["full_attention"] * 100_000,),
        "transformers_weights": ("../../../etc/passwd",),
        "num_local_experts": (10**9,),
    }
    for key, options in values.items():
        for value in options:
            yield f"config: {key} = {str(value)[:40]}", _change(**{key: value})
    texts = {
        "empty": "",
        "a list": "[]",
        "a number": "7",
        "cut": '{"model_type": "lla',
        "nested": "[" * 100_000,
        "not UTF-8": b"\xff\xfe{",
        "a huge integer": '{"model_type": "llama", "num_hidden_layers": ' + "9" * 5000 + "}",
        "NaN": '{"model_type": "llama", "num_hidden_layers": NaN}',
        "nothing in it": "{}",
        "twenty megabytes": '{"x": "' + "y" * 20_000_000 + '"}',
    }
    for name, text in texts.items():
        yield f"config.json is {name}", _write("config.json", text)
        yield f"generation_config.json is {name}", _write("generation_config.json", text)


def _write(name: str, text: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def _files() -> Iterator[tuple[str, Damage]]:
    def replaced(name: str, by: Callable[[Path], None]) -> Damage:
        def damage(folder: Path) -> None:
            (folder / name).unlink()
            by(folder / name)

        return damage

    ways: dict[str, Callable[[Path], None]] = {
        "a FIFO": lambda path: os.mkfifo(path),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a folder": lambda path: path.mkdir(),
        "an empty file": lambda path: path.touch(),
    }
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    for name in (*names, "chat_template.jinja"):
        for way, by in ways.items():
            yield f"{name} is {way}", replaced(name, by)
    yield "a FIFO that nobody asked for", lambda folder: os.mkfifo(folder / "added_tokens.json")


def _weights() -> Iterator[tuple[str, Damage]]:
    def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
        def damage(folder: Path) -> None:
            path = folder / "model.safetensors"
            raw = path.read_bytes()
            size = struct.unpack("<Q", raw[:8])[0]
            table = json.loads(raw[8 : 8 + size])
            changed = change(table)
            text = changed if isinstance(changed, bytes) else json.dumps(table).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])

        return damage

    def first(table: dict[str, Any]) -> dict[str, Any]:
        return table["model.embed_tokens.weight"]  # type: ignore[no-any-return]

    yield (
        "weights: the header claims 2^62 bytes",
        lambda f: _patch(f / "model.safetensors", 0, struct.pack("<Q", 2**62)),
    )
    yield "weights: a shape of 2^40", header(lambda table: first(table).update(shape=[2**40, 32]))
    yield (
        "weights: offsets beyond the file",
        header(lambda table: first(table).update(data_offsets=[0, 2**40])),
    )
    yield (
        "weights: offsets that overlap",
        header(lambda table: first(table).update(data_offsets=[4, 33028])),
    )
    yield "weights: an unknown dtype", header(lambda table: first(table).update(dtype="F4096"))
    yield "weights: whole numbers", header(lambda table: first(table).update(dtype="I32"))
    yield (
        "weights: another shape of the same size",
        header(lambda table: first(table).update(shape=[32, 258])),
    )
    yield "weights: the header is a list", header(lambda table: b"[]")
    yield "weights: the header is nested", header(lambda table: b"[" * 100_000)
    yield "weights: no tensors", header(lambda table: b"{}")
    yield "weights: one byte", _write("model.safetensors", b"x")
    index = "model.safetensors.index.json"

    def indexed(weight_map: Any) -> Damage:
        def damage(folder: Path) -> None:
            (folder / "model.safetensors").rename(folder / "part.safetensors")
            (folder / index).write_text(json.dumps({"weight_map": weight_map}))

        return damage

    for name, weight_map in {
        "a missing part": {"a": "part.safetensors", "b": "other.safetensors"},
        "a path outside": {"a": "../x.safetensors"},
        "an absolute path": {"a": "/etc/passwd"},
        "a list": [1, 2],
        "nothing": {},
        "a number": {"a": 5},
    }.items():
        yield f"the index names {name}", indexed(weight_map)
    yield (
        "the index is cut",
        lambda f: ((f / "model.safetensors").unlink(), (f / index).write_text('{"weight_map": {')),
    )


def _patch(path: Path, offset: int, new: bytes) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:offset] + new + raw[offset + len(new) :])


def _lost() -> Iterator[tuple[str, Damage]]:
    """Checkpoints that hold another model than the folder describes."""
    from safetensors.torch import load_file, save_file

    def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Damage:
        def damage(folder: Path) -> None:
            state = {k: v.clone() for k, v in change(load_file(folder / "model.safetensors")).items()}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

        return damage

    yield "a tensor is missing", tensors(lambda s: {k: v for k, v in s.items() if "layers.2.mlp.up" not in k})
    yield "a layer is missing", tensors(lambda s: {k: v for k, v in s.items() if "layers.3." not in k})
    yield "a wrapper's names", tensors(lambda s: {f"module.{k}": v for k, v in s.items()})
    yield "one layer more", tensors(lambda s: {**s, **{k.replace("layers.3", "layers.4"): v for k, v in s.items()}})
    yield "a reward head", tensors(lambda s: {**s, "score.weight": s["model.norm.weight"][None]})
    yield (
        "an adapter beside the weights",
        tensors(lambda s: {**s, "model.layers.0.self_attn.q_proj.lora_A.weight": s["model.norm.weight"]}),
    )

    def half(state: dict[str, Any]) -> dict[str, Any]:
        return {k: v[:20].clone() if "norm" in k else v for k, v in state.items()}

    yield "norms of another width", tensors(half)
    yield "fewer layers asked for than there are", _change(num_hidden_layers=3)
    yield "a head of its own that is not there", _change(tie_word_embeddings=False)

    def foreign(make: Callable[[], Any]) -> Damage:
        def damage(folder: Path) -> None:
            for name in ("config.json", "generation_config.json", "model.safetensors"):
                (folder / name).unlink()
            make().save_pretrained(folder)

        return damage

    def llama(kind: str) -> Any:
        import transformers

        from tests.conftest import tiny_llama

        return getattr(transformers, kind)(tiny_llama(tie_word_embeddings=False).config)

    def encoder() -> Any:
        from transformers import BertConfig, BertForMaskedLM

        return BertForMaskedLM(
            BertConfig(vocab_size=258, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        )

    yield "a reward model", foreign(lambda: llama("LlamaForSequenceClassification"))
    yield "a body without head", foreign(lambda: llama("LlamaModel"))
    yield "an encoder", foreign(encoder)

    def pickled(folder: Path) -> None:
        import torch

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    yield "pickled weights alone", pickled
    yield "fewer embeddings than the template writes", tensors_of_rows(100)


def tensors_of_rows(rows: int) -> Damage:
    def damage(folder: Path) -> None:
        from tests.conftest import tiny_llama

        tiny_llama(vocab=rows).save_pretrained(folder)

    return damage


def _tokenizers() -> Iterator[tuple[str, Damage]]:
    def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Damage:
        def damage(folder: Path) -> None:
            path = folder / "tokenizer.json"
            settings = json.loads(path.read_text())
            change(settings)
            path.write_text(json.dumps(settings))

        return damage

    yield "tokenizer of a newer version", tokenizer(lambda settings: settings["model"].update(type="NextGenerationBPE"))
    yield "tokenizer without vocabulary", tokenizer(lambda settings: settings["model"].update(vocab={}))
    yield "tokenizer with ids that are texts", tokenizer(lambda settings: settings["model"].update(vocab={"a": "b"}))
    yield "tokenizer with negative ids", tokenizer(lambda settings: settings["model"].update(vocab={"a": -1}))
    yield "tokenizer with an id of 2^31", tokenizer(lambda settings: settings["model"]["vocab"].update(zz=2**31))
    yield (
        "tokenizer with merges of nothing",
        tokenizer(lambda settings: settings["model"].update(merges=["no such pair"])),
    )
    yield (
        "tokenizer whose pattern is no pattern",
        tokenizer(
            lambda settings: settings.update(
                pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}
            )
        ),
    )
    for name, text in {"cut": '{"version": "1.0"', "a list": "[]", "nested": "[" * 100_000}.items():
        yield f"tokenizer.json is {name}", _write("tokenizer.json", text)
        yield f"tokenizer_config.json is {name}", _write("tokenizer_config.json", text)
    yield "no tokenizer", lambda f: ((f / "tokenizer.json").unlink(), (f / "tokenizer_config.json").unlink())
    for key, value in {
        "tokenizer_class": "NoSuchTokenizer",
        "model_max_length": "long",
        "eos_token": 7,
        "chat_template": 7,
        "added_tokens_decoder": {"x": 1},
        "extra_special_tokens": 5,
        "auto_map": {"AutoTokenizer": ["evil.E", None]},
    }.items():
        yield f"tokenizer_config: {key} = {value}", _tokenizer_config(**{key: value})


def _tokenizer_config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        if "chat_template" in changes:
            (folder / "chat_template.jinja").unlink()

    return damage


def _templates() -> Iterator[tuple[str, Damage]]:
    texts = {
        "does not end": NESTED,
        "recurses": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "multiplies a text": "{{ 'a' * 10000000000 }}",
        "multiplies a text that it computes": "{% set n = 99999 %}{{ 'a' * (n * n) }}",
        "pads a text": "{{ 'a'.ljust(9999999999) }}",
        "doubles at each step": DOUBLING.format("range(60)"),
        "doubles at each turn": DOUBLING.format("messages"),
        "counts to a power": "{{ 9 ** 9 ** 9 ** 9 }}",
        "is no template": "{% for %}",
        "raises": "{{ raise_exception('never') }}",
        "divides by zero": "{{ 1 / 0 }}",
        "looks for a way out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "includes a file": "{% include '/etc/passwd' %}",
        "is two megabytes": "x" * 2_000_000,
        "is empty": "",
        "is not UTF-8": b"\xff\xfe\xfd",
        "writes nothing of the messages": "hello",
    }
    for name, text in texts.items():
        yield f"a chat template that {name}", _write("chat_template.jinja", text)


def _slow_prompt(work: Path) -> None:
    from engine.chat.prompt import Prompt
    from engine.chat.rendering import render
    from tests.conftest import byte_tokenizer

    loop = "{% if messages|length > 90 %}" + NESTED + "{% endif %}"
    turns = tuple({"role": "user", "content": "a"} for _ in range(91))
    render(byte_tokenizer(loop), Prompt("p", turns), context_tokens=None, max_new_tokens=0)


def _quantised() -> Iterator[tuple[str, Damage]]:
    methods = (
        "bitsandbytes",
        "awq",
        "gptq",
        "compressed-tensors",
        "fp8",
        "fbgemm_fp8",
        "hqq",
        "torchao",
        "quanto",
        "aqlm",
        "mxfp4",
        "eetq",
        "vptq",
        "bitnet",
        "no_such_method",
        "",
        None,
        7,
        "gguf",
        "quark",
        "auto-round",
    )
    for method in methods:
        yield f"quantised by {method!r}", _change(quantization_config={"quant_method": method, "bits": 4})
    for value in (7, [], "awq", {}, {"load_in_4bit": True}):
        yield f"quantization_config = {value}", _change(quantization_config=value)


def _not_utf8(work: Path) -> None:
    from engine.models.load import load_model

    folder = os.path.join(os.fsencode(work), b"model-\xff\xfe")
    _save(work / "model")
    os.rename(work / "model", folder)
    load_model(_spec(os.fsdecode(folder)))


def _adapters() -> Iterator[tuple[str, Damage, str]]:
    """Name, what is done to the folder of a saved LoRA, and whether it must load, must be refused, or either."""
    from safetensors.torch import load_file, save_file

    def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Damage:
        def damage(folder: Path) -> None:
            path = folder / "adapter_model.safetensors"
            save_file(change(load_file(path)), path, metadata={"format": "pt"})

        return damage

    def settings(**changes: Any) -> Damage:
        def damage(folder: Path) -> None:
            path = folder / "adapter_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

        return damage

    yield "untouched", lambda folder: None, "load"
    yield (
        "all names of a wrapper",
        tensors(lambda s: {k.replace("model.layers", "model.language_model.layers"): v for k, v in s.items()}),
        "refuse",
    )
    yield "one layer lost", tensors(lambda s: {k: v for k, v in s.items() if ".layers.3." not in k}), "refuse"
    yield (
        "one tensor more",
        tensors(lambda s: {**s, "base_model.model.other.lora_A.weight": next(iter(s.values())).clone()}),
        "refuse",
    )
    yield "no tensors", tensors(lambda s: {}), "refuse"
    yield "another rank", tensors(lambda s: {k: v[:2].clone() if "lora_A" in k else v for k, v in s.items()}), "refuse"
    yield "not numbers", tensors(lambda s: {k: v * float("nan") for k, v in s.items()}), "refuse"
    yield "its weights are cut", lambda f: _patch(f / "adapter_model.safetensors", 0, b"\xff" * 8), "refuse"
    yield (
        "its weights are a FIFO",
        lambda f: ((f / "adapter_model.safetensors").unlink(), os.mkfifo(f / "adapter_model.safetensors")),
        "refuse",
    )
    for kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "NEW_KIND", None, 7, "XLORA", "ADAPTION_PROMPT"):
        yield f"of the type {kind}", settings(peft_type=kind), "refuse"
    yield "for classification", settings(task_type="SEQ_CLS"), "refuse"
    yield "with invocation tokens", settings(alora_invocation_tokens=[1, 2]), "refuse"
    yield "replaces a module that it lacks", settings(modules_to_save=["lm_head"]), "refuse"
    yield "with a setting of a newer PEFT", settings(no_such_setting=1), "refuse"
    yield "rank of a billion", settings(r=10**9), "refuse"
    yield "rank that is a text", settings(r="four"), "refuse"
    yield "no target modules", settings(target_modules=None), "refuse"
    yield "a pattern that does not end", settings(target_modules="(a+)+$"), "refuse"
    for name, text in {"empty": "", "a list": "[]", "cut": '{"peft_type"', "nested": "[" * 100_000}.items():
        yield f"adapter_config.json is {name}", _write("adapter_config.json", text), "refuse"
    yield "a template of its own", _write("chat_template.jinja", "{{ messages[0].content }}"), "load"
    yield "a template that does not end", _write("chat_template.jinja", NESTED), "refuse"
    yield "a tokenizer that is cut", _write("tokenizer.json", "{"), "refuse"


def _adapter(change: Callable[[Path], Any], must: str) -> Callable[[Path], None]:
    def attempt(work: Path) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        from engine.models.load import load_model
        from tests.conftest import tiny_llama

        _save(work / "model")
        torch.manual_seed(4)
        adapted = get_peft_model(
            tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
        ).eval()
        adapted.save_pretrained(work / "lora")
        ids = torch.tensor([[0, 5, 7, 90, 33]])
        wanted = adapted(input_ids=ids).logits
        change(work / "lora")
        try:
            logits = load_model(_spec(work / "model", adapter=str(work / "lora"))).model(input_ids=ids).logits
        except DraftbenchError as error:
            if must == "load":
                raise AssertionError(f"refused: {error}") from error
            raise
        assert must != "refuse", "loaded without a word"
        assert float((logits - wanted).abs().max()) < 1e-3, "not the adapter's logits"

    return attempt
