"""What ends a turn: the template's mark and the settings' ids, one rule for capture, served text and tuning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from engine.capture.plan import plan_capture
from engine.capture.store import make_capture
from engine.chat.prompt import Prompt
from engine.chat.turns import check_folder, check_turns, turns_of
from engine.config.schema import CaptureSpec, ModelSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel
from engine.served.capture import plan_served
from engine.tune.examples import Example, encode
from engine.tune.recipe import TuneData
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_pair import loaded, questions

MARKS = ["<s>", "</s>", "<|user|>", "<|im_start|>", "<|im_end|>", "<|eot|>", "<|eom|>", "<call>", "</call>", "<|end|>"]
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for m in messages %}"
HEAD = EACH + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
CALLS = "{% for c in m['tool_calls'] or [] %}<call>{{ c['function']['arguments'] | tojson }}</call>{% endfor %}"


def tokenizer_of(template: str | None, eos: str | None = "</s>") -> Any:
    """One token a byte, ids 0 to 255, then MARKS as special tokens, which all are 256 and more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(MARKS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, chat_template=template)


def id_of(mark: str) -> int:
    return 256 + MARKS.index(mark)


@dataclass(frozen=True)
class Case:
    template: str
    end: str
    before: str = ""
    more_stops: tuple[str, ...] = ()
    eos: str = "</s>"
    settings: tuple[str, ...] = ()
    state: str = "ok"


CASES = {
    "ChatML, eos is its mark": Case(HEAD + "<|im_end|>\n{% endfor %}" + ASK, "<|im_end|>", eos="<|im_end|>"),
    "ChatML, eos is the base's": Case(HEAD + "<|im_end|>\n{% endfor %}" + ASK, "<|im_end|>", state="warning"),
    "ChatML, the settings name it": Case(
        HEAD + "<|im_end|>\n{% endfor %}" + ASK, "<|im_end|>", settings=("</s>", "<|im_end|>")
    ),
    "a blank before the mark": Case(EACH + "{{ m['content'] + ' </s>' }}{% endfor %}", "</s>", before=" "),
    "a line break before the mark": Case(HEAD + "\n<|eot|>\n{% endfor %}" + ASK, "<|eot|>", before="\n", eos="<|eot|>"),
    "another mark after it": Case(
        HEAD + "<|end|>\n{% endfor %}{% if not add_generation_prompt %}</s>{% endif %}" + ASK,
        "<|end|>",
        settings=("<|end|>",),
    ),
    "nothing behind the last answer, the next turn's opening is an end": Case(
        EACH + "<|user|>{{ m['content'] }}{% endfor %}", "<|user|>", settings=("</s>", "<|user|>")
    ),
    "nothing behind the last answer": Case(EACH + "<|user|>{{ m['content'] }}{% endfor %}", "</s>", state="warning"),
    "a line break alone": Case(EACH + "{{ m['content'] + '\n' }}{% endfor %}", "</s>", state="warning"),
    "plain text of several tokens": Case(EACH + "{{ m['content'] + '<|stop|>' }}{% endfor %}", "</s>", state="warning"),
    "a template that cannot write an answer": Case("{{ raise_exception('no') }}", "</s>", state="warning"),
    "a template that drops the answer": Case("<|im_end|>hello", "</s>", state="warning"),
    "another mark behind a call": Case(
        HEAD + CALLS + "{{ '<|eom|>' if m['tool_calls'] else '<|eot|>' }}{% endfor %}" + ASK,
        "<|eot|>",
        more_stops=("<|eom|>",),
        eos="<|eot|>",
        state="warning",
    ),
    "a bracket of the call is no end": Case(
        HEAD + CALLS + "{{ '' if m['tool_calls'] else '<|eot|>' }}{% endfor %}" + ASK, "<|eot|>", eos="<|eot|>"
    ),
    "arguments wanted as text": Case(
        HEAD + "{% for c in m['tool_calls'] or [] %}{{ '<call>' + c['function']['arguments'] + '</call>' }}{% endfor %}"
        "{{ '<|eom|>' if m['tool_calls'] else '<|eot|>' }}{% endfor %}" + ASK,
        "<|eot|>",
        more_stops=("<|eom|>",),
        eos="<|eot|>",
        state="warning",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_templates_mark_ends_a_turn_and_the_settings_ids_stop_one_too(name: str):
    case = CASES[name]
    tokenizer = tokenizer_of(case.template, case.eos)
    settings = GenerationConfig(eos_token_id=[id_of(mark) for mark in case.settings] or None)
    turns = turns_of(tokenizer, settings)
    assert turns.end == id_of(case.end)
    assert turns.before_end == case.before
    wanted = {case.end, case.eos, *case.settings, *case.more_stops}
    assert turns.stop_ids == {id_of(mark) for mark in wanted}
    state, message, fix = check_turns(tokenizer, settings)
    assert state == case.state, message
    assert all(str(id_of(mark)) in message for mark in wanted)
    assert bool(fix) is (state != "ok")


@pytest.mark.parametrize("name", CASES)
def test_tuning_teaches_what_the_template_writes_up_to_the_id_that_stops(name: str):
    case = CASES[name]
    template = case.template.replace("{{ raise_exception('no') }}", "x")
    asks = template if "content" in template else "{{ messages[0]['content'] }}" + template
    tokenizer = tokenizer_of(asks, case.eos)
    turns = turns_of(tokenizer, GenerationConfig(eos_token_id=[id_of(mark) for mark in case.settings] or None))
    example = Example(Prompt("p", ({"role": "user", "content": "hi"},)), "yes")
    data = TuneData(train="train.jsonl", heldout="heldout.jsonl")
    (row,) = encode(tokenizer, [example], data, None, turns)
    assert tokenizer.decode(row.reference_ids) == "yes" + case.before + case.end
    assert row.reference_ids[-1] in turns.stop_ids


@pytest.mark.parametrize(
    ("named", "ids"), [(7, {7, 1}), ([7, 9], {7, 9, 1}), ([], {1}), (-1, {1}), ([[7], None, True, "x"], {7, 1})]
)
def test_settings_of_every_form_are_read(named: Any, ids: set[int]):
    settings = GenerationConfig()
    settings.eos_token_id = named
    assert turns_of(byte_tokenizer(), settings).stop_ids == ids


def test_a_mark_of_one_plain_token_stops_and_is_doubted():
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['role'] + ':' + m['content'] + '#' }}{% endfor %}")
    turns = turns_of(tokenizer)
    assert tokenizer.decode([turns.end]) == "#"
    assert turns.end in turns.stop_ids
    state, message, _ = check_turns(tokenizer, None)
    assert state == "warning"
    assert "ordinary text" in message


def test_nothing_that_ends_an_answer_is_an_error_in_words():
    tokenizer = tokenizer_of(EACH + "{{ m['content'] }}{% endfor %}", None)
    with pytest.raises(DraftbenchError, match="nothing ends an answer"):
        _ = turns_of(tokenizer).end
    state, message, fix = check_turns(tokenizer, None)
    assert (state, "max_new_tokens" in message, "eos_token_id" in fix) == ("warning", True, True)


def test_a_mark_that_the_model_cannot_write_is_said():
    tokenizer = tokenizer_of(HEAD + "<|im_end|>{% endfor %}" + ASK, "<|im_end|>")
    assert "can never write it" in check_turns(tokenizer, None, vocab_rows=258)[1]


def ends_with(mark: int, **config: Any) -> Any:
    """A model that writes the mark and nothing else."""
    model = tiny_llama(**config)
    head = torch.nn.Linear(32, 258, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[mark] = 30.0
    model.config.tie_word_embeddings, model.lm_head = False, head.eval().requires_grad_(False)
    return model


def test_a_capture_stops_at_the_templates_mark_whatever_the_settings_say(tmp_path: Path):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = "z"
    model = ends_with(1, eos_token_id=tokenizer.convert_tokens_to_ids("z"))
    target = LoadedModel(model, tokenizer, ModelSpec(model="t"), "t")
    plan = plan_capture(tmp_path, target, questions(1), CaptureSpec(max_new_tokens=8, temperature=0.0))
    (answer,) = make_capture(plan, target, batch_size=1).answers
    assert (answer.token_ids, answer.finish_reason) == ([1], "stop")
    assert plan.spec["stop_ids"] == sorted(target.stop_ids) == [1, tokenizer.eos_token_id]


def test_captures_keep_their_address_where_the_template_adds_no_end(tmp_path: Path):
    target = loaded(tiny_llama())
    own = plan_capture(tmp_path, target, questions(1), CaptureSpec())
    server = ServerSpec(base_url="http://127.0.0.1:9/v1", model="m")
    served = plan_served(tmp_path, target, questions(1), CaptureSpec(signal="none", server=server))
    assert not {"stop_ids", "end_of_turn"} & {*own.spec, *served.spec}
    blank = byte_tokenizer("{% for m in messages %}{{ m['content'] + ' <|im_end|>' }}{% endfor %}")
    other = LoadedModel(target.model, blank, target.spec, "tiny")
    again = plan_served(tmp_path, other, questions(1), CaptureSpec(signal="none", server=server))
    assert again.spec["end_of_turn"] == 1


@pytest.mark.parametrize(
    ("written", "state"), [({"eos_token_id": [5, 1]}, "warning"), ({"eos_token_id": 1}, "ok"), (None, "ok")]
)
def test_the_check_before_a_start_reads_the_settings_without_the_weights(
    tmp_path: Path, tiny_target_folder: Path, written: Any, state: str
):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_target_folder / "config.json").read_bytes())
    if written:
        (folder / "generation_config.json").write_text(json.dumps(written), encoding="utf-8")
    result = check_folder(folder, byte_tokenizer(), tiny_llama().config)
    assert result[0] == state, result
    (folder / "generation_config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(DraftbenchError, match="generation settings"):
        check_folder(folder, byte_tokenizer(), tiny_llama().config)
