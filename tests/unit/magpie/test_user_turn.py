"""Where the user speaks, found in the templates of four families of models and in some odd ones."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.errors import DraftbenchError
from engine.magpie.user_turn import find_opening, template_marks

SYSTEM = "You answer questions on ferns."
TOOL = {"type": "function", "function": {"name": "weather", "description": "Rain or not", "parameters": {}}}
GENERATE = "{% if add_generation_prompt %}"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    + GENERATE
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_TURN = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
QWEN = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{{ messages[0]['content'] if messages[0]['role'] == 'system' else 'You are Qwen.' }}"
    "{{ '\n<tools>' }}{% for t in tools %}{{ '\n' + (t | tojson) }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% elif messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    + GENERATE
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    + GENERATE
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" + GENERATE + "{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_FOLDS = (
    "{{ bos_token }}{% set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages if m['role'] != 'system' %}{{ '<start_of_turn>user\n' + (first if loop.first else '')"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" + GENERATE + "{{ '<start_of_turn>model\n' }}{% endif %}"
)
IGNORES_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>user\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}" + GENERATE + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ 'USER: ' + m['content'] + '\n' }}{% endfor %}" + GENERATE + "ASSISTANT:{% endif %}"


def make_tokenizer(
    template: str | None, *marks: str, bos: str | None = None, merges: tuple[tuple[str, str], ...] = ()
) -> Any:
    """One token a byte and a merge, and the family's special tokens; the last mark is the end of a turn."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocab = {symbol: number for number, symbol in enumerate(symbols)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([*([bos] if bos else []), *marks, "<eos>"])
    special = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", chat_template=template, **special)


def chatml(template: str) -> Any:
    return make_tokenizer(template, "<|im_start|>", "<|im_end|>")


def llama3() -> Any:
    return make_tokenizer(LLAMA3, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", bos="<|begin_of_text|>")


def gemma(template: str = GEMMA) -> Any:
    return make_tokenizer(template, "<start_of_turn>", "<end_of_turn>", bos="<bos>")


FAMILIES = {
    "chatml": (chatml(CHATML), "<|im_start|>user\n", "<|im_end|>"),
    "default turn": (
        chatml(DEFAULT_TURN + CHATML),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>",
    ),
    "qwen": (chatml(QWEN), "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n", "<|im_end|>"),
    "llama-3": (llama3(), "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma": (gemma(), "<bos><start_of_turn>user\n", "<end_of_turn>"),
}
STEERED = {
    "chatml": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
    "default turn": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
    "qwen": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
    "llama-3": f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "gemma": f"<bos><start_of_turn>user\n{SYSTEM}\n\n",
}


def opening_of(tokenizer: Any, **options: Any) -> Any:
    return find_opening(tokenizer, **{"context_tokens": None, "max_new_tokens": 8, **options})


def text_of(tokenizer: Any, opening: Any) -> str:
    return str(tokenizer.decode(opening.ids, skip_special_tokens=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_opening_is_all_before_the_users_text_and_the_turn_ends_with_the_families_own_token(family: str):
    tokenizer, before, end = FAMILIES[family]
    opening = opening_of(tokenizer)
    assert text_of(tokenizer, opening) == before
    assert opening.end_ids == {tokenizer.convert_tokens_to_ids(end)}
    assert (opening.end_text, opening.system_place) == ("", "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_written_after_the_opening_is_what_a_capture_will_render(family: str):
    tokenizer, _, end = FAMILIES[family]
    query = "Why do ferns have no flowers? 为什么"
    written = [*opening_of(tokenizer).ids, *tokenizer(query, add_special_tokens=False)["input_ids"]]
    written.append(tokenizer.convert_tokens_to_ids(end))
    seen = render(tokenizer, Prompt("p", ({"role": "user", "content": query},)), context_tokens=None, max_new_tokens=1)
    assert seen[: len(written)] == written


@pytest.mark.parametrize("family", FAMILIES)
def test_a_system_prompt_goes_where_the_template_puts_it(family: str):
    tokenizer, _, end = FAMILIES[family]
    opening = opening_of(tokenizer, system=SYSTEM)
    assert text_of(tokenizer, opening) == STEERED[family]
    assert opening.system_place == ("user" if family == "gemma" else "system")
    assert opening.end_ids == {tokenizer.convert_tokens_to_ids(end)}


def test_a_template_that_folds_the_system_prompt_into_the_users_turn_is_left_to_do_so():
    tokenizer = gemma(GEMMA_FOLDS)
    opening = opening_of(tokenizer, system=SYSTEM)
    assert (text_of(tokenizer, opening), opening.system_place) == (STEERED["gemma"], "system")


def test_a_system_prompt_that_the_template_ignores_opens_the_users_turn():
    tokenizer = chatml(IGNORES_SYSTEM)
    opening = opening_of(tokenizer, system=SYSTEM)
    assert (text_of(tokenizer, opening), opening.system_place) == (f"<|im_start|>user\n{SYSTEM}\n\n", "user")


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("family", FAMILIES)
def test_first_words_stand_behind_the_opening_and_the_turn_still_ends_as_it_did(family: str, system: str | None):
    tokenizer, _, _ = FAMILIES[family]
    open_turn = opening_of(tokenizer, system=system)
    opening = opening_of(tokenizer, system=system, words="Why do 蕨")
    assert text_of(tokenizer, opening) == text_of(tokenizer, open_turn) + "Why do 蕨"
    assert opening.ids == (*open_turn.ids, *opening.begun)
    assert tokenizer.decode(opening.begun) == "Why do 蕨"
    assert (opening.end_ids, opening.system_place) == (open_turn.end_ids, open_turn.system_place)
    assert open_turn.begun == ()


def test_first_words_are_split_as_the_tokenizer_does_behind_the_template():
    tokenizer = make_tokenizer(PLAIN, merges=(("Ġ", "W"), ("h", "y")))
    opening = opening_of(tokenizer, words="Why")
    query = Prompt("p", ({"role": "user", "content": "Why not?"},))
    seen = render(tokenizer, query, context_tokens=None, max_new_tokens=1)
    assert tokenizer.convert_ids_to_tokens(opening.begun) == ["ĠW", "hy"]
    assert tuple(seen[: len(opening.ids)]) == opening.ids
    assert text_of(tokenizer, opening) == "USER: Why"


def test_first_words_that_the_template_changes_are_refused():
    tokenizer = chatml(
        "{% for m in messages %}<|im_start|>{{ m['content'] | replace('Why', 'Who') }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(DraftbenchError, match="the opening 'Why do' becomes 'Who do'"):
        opening_of(tokenizer, words="Why do")


def test_tools_come_before_the_query_in_the_form_that_prompts_have():
    for template, mark in ((QWEN, "<tools>"), (CHATML, "You can call these functions:")):
        tokenizer = chatml(template)
        opening = opening_of(tokenizer, tools=[TOOL])
        query = Prompt("p", ({"role": "user", "content": "Rain?"},), (TOOL,))
        seen = render(tokenizer, query, context_tokens=None, max_new_tokens=1)
        assert mark in text_of(tokenizer, opening)
        assert tuple(seen[: len(opening.ids)]) == opening.ids


def test_a_turn_that_ends_in_plain_text_is_cut_there():
    tokenizer = make_tokenizer(PLAIN)
    opening = opening_of(tokenizer)
    assert text_of(tokenizer, opening) == "USER: "
    assert (opening.end_ids, opening.end_text) == (frozenset(), "ASSISTANT:")
    assert opening.cut("Why?\nASSISTANT: Because.") == ("Why?\n", True)
    assert opening.cut("Why?") == ("Why?", False)
    assert opening_of(chatml(CHATML)).cut("all of it") == ("all of it", False)


def test_marks_are_special_tokens_added_tokens_the_template_names_and_a_plain_end():
    tokenizer = chatml(QWEN)
    tokenizer.add_tokens(["<tools>", "<table>", "\n\n\n"])
    marks = template_marks(tokenizer, opening_of(tokenizer))
    assert {"<|im_start|>", "<|im_end|>", "<eos>", "<tools>"} == marks
    plain = make_tokenizer(PLAIN)
    assert "ASSISTANT:" in template_marks(plain, opening_of(plain))


@pytest.mark.parametrize("change", ["{{ m['content'] | upper }}", "{{ m['content'] }} {{ m['content'] }}", "hello"])
def test_a_template_that_does_not_copy_the_message_once_is_refused(change: str):
    tokenizer = chatml("{% for m in messages %}<|im_start|>" + change + "<|im_end|>{% endfor %}")
    with pytest.raises(DraftbenchError, match=r"does not write a user's message as it is|drops message 1 \(user\)"):
        opening_of(tokenizer)


def test_no_template_is_refused():
    with pytest.raises(DraftbenchError, match="no chat template"):
        opening_of(make_tokenizer(None))


def test_an_opening_too_long_for_the_context_is_refused_also_where_the_system_role_is():
    for tokenizer in (chatml(CHATML), gemma()):
        with pytest.raises(DraftbenchError, match="tokens; at most"):
            opening_of(tokenizer, system="long " * 50, context_tokens=120)
