"""Every filter removes what it is named after, counts it once and keeps an example."""

from __future__ import annotations

import pytest

from engine.chat.prompt import Prompt
from engine.magpie.filters import WrittenQuery, apply_filters, distinct_share, first_sentence, script_share
from engine.magpie.recipe import FilterSpec

GOOD = [
    "How do ferns reproduce without seeds?",
    "Write a short poem about the sea at night.",
    "What is the difference between a list and a tuple in Python?",
]
MARKS = frozenset({"<|im_start|>", "<tools>"})
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def filtered(texts, *, finished=True, rules=None, heldout=()):
    queries = [WrittenQuery(number, text, finished) for number, text in enumerate(texts)]
    return apply_filters(queries, rules or FilterSpec(), MARKS, heldout, "general")


def counts(found):
    return {name: removed.count for name, removed in found.removed.items() if removed.count}


def test_good_queries_stay_in_order_with_ids_that_do_not_depend_on_what_was_removed():
    result = filtered([GOOD[0], "", *GOOD[1:]])
    assert [(p.id, p.text) for p in result.kept] == [
        ("magpie-general-00000", GOOD[0]),
        ("magpie-general-00002", GOOD[1]),
        ("magpie-general-00003", GOOD[2]),
    ]


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("empty", "", {}),
        ("template_tokens", "Hello <|im_start|>assistant, how are you today?", {}),
        ("template_tokens", "<tools>", {}),
        ("broken_characters", "What does this mean: \ufffd and why is it?", {}),
        ("call_not_query", '{"name": "weather", "arguments": {"city": "Wien"}}', {}),
        ("call_not_query", '[ {"name": "weather", "arguments": {}}', {}),
        ("too_short", "Hi?", {}),
        ("too_long", "Tell me why it is so, and tell me how it came about.", {"max_characters": 50}),
        ("ends_with_colon", "Answer the following question:", {}),
        ("ends_with_colon", "请回答下面这一个问题：", {}),
        ("wrong_script", "Write about 春天 in English please", {"script": "han"}),
        ("wrong_script", "12345 67890", {"script": "latin"}),
        ("repeats_itself", "I want it. I want it. I want it. I want it. I want it.", {}),
        ("repeats_itself", "我想知道这是什么。我想知道这是什么。我想知道这是什么。我想知道这是什么。", {}),
    ],
)
def test_each_filter_takes_out_its_own_kind_and_keeps_it_as_the_example(name, text, rules):
    result = filtered([GOOD[0] if "script" not in rules else "", text], rules=FilterSpec(**rules))
    assert result.removed[name].count >= 1
    assert result.removed[name].example == text
    assert text not in [prompt.text for prompt in result.kept]


def test_a_query_about_json_is_not_taken_for_a_call():
    texts = ['What is wrong with {"name": "weather"}?', "[Urgent] Is it raining in Vienna now?", "{x} or {y}, which?"]
    assert len(filtered(texts).kept) == 3


def test_a_query_whose_turn_never_ended_is_unfinished():
    result = filtered([GOOD[0]], finished=False)
    assert (result.kept, counts(result)) == ([], {"unfinished": 1})


def test_chinese_passes_where_chinese_is_wanted_and_mixed_text_by_its_share():
    rules = FilterSpec(script="han", script_share=0.5, min_characters=4)
    assert len(filtered(["蕨类植物怎样繁殖？", "Python里的列表和元组到底有什么区别？"], rules=rules).kept) == 2
    assert script_share("ab春天", "han") == pytest.approx(0.5)
    assert script_share("?!", "han") == 0


@pytest.mark.parametrize(
    ("text", "sentence", "cut"),
    [
        ("如何学习？我想知道。", "如何学习？", True),
        ("他说：“真的吗？”然后走了。", "他说：“真的吗？”", True),
        ("Why is pi 3.14 and not 3? Tell me.", "Why is pi 3.14 and not 3?", True),
        ("请写一首诗\n春天", "请写一首诗", True),
        ("Is it so?", "Is it so?", True),
        ("no end of it", "no end of it", False),
    ],
)
def test_a_first_sentence_ends_at_its_mark_or_line_and_not_inside_a_number(text: str, sentence: str, cut: bool):
    assert first_sentence(text) == (sentence, cut)


def test_prose_is_distinct_and_a_loop_is_not():
    assert all(distinct_share(text) > 0.9 for text in [*GOOD, "", "short"])
    assert distinct_share("ha ha ha ha ha ha ha ha") < 0.3


def test_repeats_and_held_out_queries_are_taken_out_and_distinguished():
    near = GOOD[2].replace("in Python", "in python 3")
    heldout = [Prompt("h", ({"role": "user", "content": GOOD[1].upper()},))]
    result = filtered([*GOOD, GOOD[0].lower() + " ", near], heldout=heldout)
    assert counts(result) == {"exact_duplicate": 1, "near_duplicate": 1, "heldout_overlap": 1}
    assert [prompt.text for prompt in result.kept] == [GOOD[0], GOOD[2]]
    assert result.removed["near_duplicate"].example == near


def test_every_query_is_kept_or_counted_once():
    texts = [*GOOD, *GOOD, "", "Hi?", "List these:", "<tools>:", "no no no no no no no no no no", "w"]
    result = filtered(texts)
    assert len(result.kept) + sum(counts(result).values()) == len(texts)
    assert [name for name in result.removed if result.removed[name].count] == [
        "empty",
        "template_tokens",
        "too_short",
        "ends_with_colon",
        "repeats_itself",
        "exact_duplicate",
    ]


def test_the_same_words_under_other_tools_are_a_near_duplicate_and_tools_stay_with_their_query():
    queries = [WrittenQuery(0, GOOD[0], True, (TOOL,), "travel"), WrittenQuery(1, GOOD[0], True)]
    result = apply_filters(queries, FilterSpec(), MARKS, [], "calls")
    assert [(p.tools, p.group) for p in result.kept] == [((TOOL,), "travel")]
    assert counts(result) == {"near_duplicate": 1}
