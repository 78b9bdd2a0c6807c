"""A written GGUF file is the same model with the same tokenizer, for Transformers and for our own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.export.gguf import load_gguf
from engine.export.gguf_file import Precision, export_gguf, rotary_pairs_together
from engine.models.load import load_model
from tests.conftest import CHATML, byte_tokenizer, tiny_llama

PROMPTS = [list(range(2 + i, 12 + i)) for i in range(50)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def merging_tokenizer(template: str | None = CHATML) -> Any:
    """The byte tokenizer with two merges: llama.cpp reads no BPE without any."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = byte_tokenizer().get_vocab()
    vocabulary = {**plain, "th": 258, "the": 259, "<|endoftext|>": 260}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    wrapped.chat_template = template
    return wrapped


def tiny(kind: str = "llama", **changes: Any) -> Any:
    """A random model of 264 ids, three more than the tokenizer has."""
    if kind == "llama":
        return tiny_llama(vocab=264, **changes)
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = (
            Qwen2ForCausalLM(Qwen2Config(**settings)) if kind == "qwen2" else Qwen3ForCausalLM(Qwen3Config(**settings))
        )
        for name, parameter in made.named_parameters():  # biases and norms begin as zeros and ones
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return made.eval().requires_grad_(False)


def greedy(model: Any, count: int = 8) -> list[list[int]]:
    """The greedy continuation of each prompt."""
    ids = torch.tensor(PROMPTS)
    for _ in range(count):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, len(PROMPTS[0]) :].tolist()


def written(path: Path, model: Any, precision: Precision = "f32", **options: Any) -> Path:
    return export_gguf(path / "m.gguf", model, merging_tokenizer(), precision=precision, **options).path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": False, "head_dim": 128}),
    ],
)
def test_read_back_in_float32_it_is_the_same_model_bit_for_bit(kind: str, changes: dict[str, Any], tmp_path: Path):
    model = tiny(kind, **changes)
    back = load_gguf(written(tmp_path, model), torch.float32, torch.device("cpu"))
    state, other = model.state_dict(), back.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert greedy(back) == greedy(model)
    again = load_model(ModelSpec(model=str(tmp_path / "m.gguf"), dtype="float32", device="cpu"))
    assert torch.equal(again.model(torch.tensor(PROMPTS)).logits, model(torch.tensor(PROMPTS)).logits)


def test_a_qwen3_with_heads_of_another_width_is_read_back(tmp_path: Path):
    model = tiny("qwen3", head_dim=16)
    assert greedy(load_gguf(written(tmp_path, model), torch.float32, torch.device("cpu"))) == greedy(model)


@pytest.mark.slow
def test_fifty_prompts_give_the_same_greedy_tokens_in_f16_within_its_rounding(tmp_path: Path):
    model = tiny()
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=written(tmp_path, model, "f16").name, dtype=torch.float32
    )
    ids = torch.tensor(PROMPTS)
    mine, theirs = model(ids).logits.detach(), back(ids).logits.detach()
    rounding = 2.0**-11 * float(mine.abs().max()) * 2 * model.config.num_hidden_layers
    assert 0 < float((mine - theirs).abs().max()) < rounding
    best = mine[:, -1].topk(2).values
    clear = best[:, 0] - best[:, 1] > 2 * rounding
    assert clear.sum() > 25
    assert torch.equal(mine[clear, -1].argmax(-1), theirs[clear, -1].argmax(-1))


@pytest.mark.slow
def test_a_bfloat16_draft_is_the_same_in_f16(tmp_path: Path):
    model = tiny().bfloat16()
    back = load_gguf(written(tmp_path, model, "f16"), torch.float32, torch.device("cpu"))
    assert greedy(back) == greedy(model.float())


@pytest.mark.parametrize(("precision", "largest"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_a_precision_rounds_by_no_more_than_it_says(precision: Precision, largest: float, tmp_path: Path):
    model = tiny()
    back = load_gguf(written(tmp_path, model, precision), torch.float32, torch.device("cpu"))
    for name, tensor in model.state_dict().items():
        apart = float((tensor - back.state_dict()[name]).abs().max())
        assert apart <= largest * float(tensor.abs().max())
        assert (apart == 0) == (tensor.ndim == 1), name


def test_rows_that_q8_0_does_not_fit_stay_f16_and_are_reported(tmp_path: Path):
    model = tiny_llama(vocab=264, hidden_size=48, intermediate_size=96, num_attention_heads=4)
    file = export_gguf(tmp_path / "m.gguf", model, merging_tokenizer(), precision="q8_0")
    assert "stay f16" in file.notes[0]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file.path).tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("Q8_0", "F16")
    load_gguf(file.path, torch.float32, torch.device("cpu"))


def test_the_tokenizer_and_its_template_are_in_the_file(tmp_path: Path):
    tokenizer = merging_tokenizer()
    file = written(tmp_path, tiny(), stop_ids={1, 40, 41, 42})
    back = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for text in ("the theatre 12  345", "你好 🙂", "a\n\n  b"):
        assert back(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert back.chat_template == tokenizer.chat_template
    fields = {key: field.contents() for key, field in GGUFReader(file).fields.items()}
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.tokens"][258:] == ["th", "the", "<|endoftext|>", "[PAD261]", "[PAD262]", "[PAD263]"]
    assert fields["tokenizer.ggml.token_type"][256:] == [1, 1, 1, 1, 3, 5, 5, 5]
    assert fields["tokenizer.ggml.token_type"][:2] == [3, 3]
    assert not fields["tokenizer.ggml.add_bos_token"]
    ends = [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert ends == [1, 40, 41]


def test_ids_that_end_an_answer_and_have_no_place_are_reported(tmp_path: Path):
    file = export_gguf(tmp_path / "m.gguf", tiny(), merging_tokenizer(), stop_ids={1, 40, 41, 42})
    assert "42" in file.notes[0]


def test_the_tokenizer_of_the_targets_own_file_is_copied(tmp_path: Path):
    first = written(tmp_path, tiny())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=first.name)  # it has lost the rule for digits
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    second = export_gguf(tmp_path / "n.gguf", tiny(), tokenizer, tokenizer_source=first)
    fields = [{k: f.contents() for k, f in GGUFReader(path).fields.items()} for path in (first, second.path)]
    for key in ("tokens", "token_type", "merges", "pre", "model", "bos_token_id", "eos_token_id"):
        assert fields[0][f"tokenizer.ggml.{key}"] == fields[1][f"tokenizer.ggml.{key}"]
    assert fields[1]["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


def test_a_token_that_was_added_after_the_file_was_made_is_written(tmp_path: Path):
    first = written(tmp_path, tiny())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=first.name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    second = export_gguf(tmp_path / "n.gguf", tiny_llama(vocab=280), tokenizer, tokenizer_source=first)
    fields = {key: field.contents() for key, field in GGUFReader(second.path).fields.items()}
    assert fields["tokenizer.ggml.tokens"][len(tokenizer) - 1] == "<|new|>"
    assert fields["tokenizer.ggml.token_type"][len(tokenizer) - 1] == 3
    assert fields["tokenizer.ggml.pre"] == "smollm"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"attention_bias": True}, "have biases"),
        ({"mlp_bias": True}, "have biases"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "positions are linear"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 2.0}}, "not those of Llama 3"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(change: dict[str, Any], why: str, tmp_path: Path):
    with pytest.raises(DraftbenchError, match=why):
        written(tmp_path, tiny_llama(vocab=264, **change))
    assert not list(tmp_path.iterdir())


def test_another_architecture_is_refused(tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(DraftbenchError, match="architecture is gpt2"):
        written(tmp_path, model)


def test_a_tokenizer_without_a_rule_in_llama_cpp_is_refused_and_nothing_is_left(tmp_path: Path):
    from tokenizers import pre_tokenizers

    tokenizer = merging_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(DraftbenchError, match="pre-tokenizer is none of"):
        export_gguf(tmp_path / "m.gguf", tiny(), tokenizer)
    assert not list(tmp_path.iterdir())


def test_values_that_float16_cannot_hold_are_refused_and_nothing_is_left(tmp_path: Path):
    model = tiny()
    model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(DraftbenchError, match="float16 cannot hold"):
        written(tmp_path, model, "f16")
    assert not list(tmp_path.iterdir())


def test_rotary_rows_stand_in_pairs():
    rows = torch.arange(8).reshape(8, 1)
    assert rotary_pairs_together(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
