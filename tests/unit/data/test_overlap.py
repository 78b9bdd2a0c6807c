"""Repeated queries: between training and held-out prompts, and within one list."""

from __future__ import annotations

import random

import pytest

from engine.chat.prompt import Prompt
from engine.data.overlap import (
    duplicates_within,
    jaccard,
    normalise,
    remove_overlap,
    repeats_in_context,
    shingles,
)
from engine.errors import DraftbenchError


def ask(prompt_id: str, text: str, *tool_names: str) -> Prompt:
    tools = tuple({"type": "function", "function": {"name": name}} for name in tool_names)
    return Prompt(prompt_id, ({"role": "user", "content": text},), tools)


HELDOUT = ask("h1", "What is the function of the mitochondria in an animal cell?")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  What's\tDNA?!  ", "what s dna"),
        ("Ｗｈａｔ ＩＳ this…", "what is this"),
        ("Straße", "strasse"),
        ("你好，世界！", "你好 世界"),
        ("C++ > C", "c++ > c"),
        ("नमस्ते", "नमस्ते"),
        ("?!", "?!"),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


def test_shingles_and_jaccard():
    assert shingles("abcdef") == {"abcde", "bcdef"}
    assert shingles("ab") == {"ab"}
    assert jaccard(shingles("abcdef"), shingles("abcdefg")) == pytest.approx(2 / 3)


@pytest.mark.parametrize("text", ["WHAT is the function of the mitochondria, in an animal cell", HELDOUT.text])
def test_exact_repeat_is_removed(text):
    other = ask("t2", "Name three kinds of RNA.")
    kept, removed = remove_overlap([ask("t1", text), other], [HELDOUT])
    assert kept == [other]
    assert removed == [("t1", "h1", "exact", 1.0)]


def test_near_repeat_is_removed_with_its_exact_similarity():
    near = ask("t1", "What is the function of mitochondria in an animal cell? Thanks")
    kept, removed = remove_overlap([near], [HELDOUT], threshold=0.6)
    similarity = jaccard(shingles(normalise(near.text)), shingles(normalise(HELDOUT.text)))
    assert 0.6 < similarity < 0.8
    assert kept == []
    assert removed == [("t1", "h1", "near", similarity)]
    assert remove_overlap([near], [HELDOUT], threshold=0.8) == ([near], [])


def test_near_repeat_is_found_in_chinese():
    heldout = ask("h", "丝绸之路上除了丝绸以外，还运送过些什么东西呢？")
    train = [
        ask("t1", "请问丝绸之路上除了丝绸以外，还运送过些什么东西呢"),
        ask("t2", "洗衣机用久了有霉味，怎么清理内筒？"),
    ]
    kept, removed = remove_overlap(train, [heldout], threshold=0.7)
    assert [prompt.id for prompt in kept] == ["t2"]
    assert [(repeat.prompt_id, repeat.kind) for repeat in removed] == [("t1", "near")]


def test_only_the_last_user_message_counts():
    turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *HELDOUT.messages)
    _, removed = remove_overlap([Prompt("t1", turns)], [HELDOUT])
    assert [repeat.kind for repeat in removed] == ["exact"]


def test_same_query_with_other_tools_is_no_exact_repeat_but_still_removed():
    heldout = ask("h1", "Book a table for two tomorrow", "book", "cancel")
    train = [ask("t1", heldout.text, "cancel", "book"), ask("t2", heldout.text, "reserve")]
    kept, removed = remove_overlap(train, [heldout])
    assert kept == []
    assert removed == [("t1", "h1", "exact", 1.0), ("t2", "h1", "near", 1.0)]


def test_different_queries_with_the_same_tools_are_kept():
    names = [f"a_rather_long_tool_name_{number}" for number in range(8)]
    train = [ask("t1", "Any rain?", *names)]
    assert remove_overlap(train, [ask("h1", "Call Bob", *names)]) == (train, [])


def test_the_most_similar_heldout_prompt_is_named():
    base = "Explain how the kidneys of desert mammals save water during the dry season"
    heldout = [ask("far", base + ", please, and for how long"), ask("close", base + "?!"), ask("twin", base)]
    _, removed = remove_overlap([ask("t", base + " s")], heldout, threshold=0.5)
    assert [repeat.repeats_id for repeat in removed] == ["close"]


def test_on_a_tie_the_first_heldout_prompt_is_named():
    base = "Explain how the kidneys of desert mammals save water during the dry season"
    heldout = [ask("h1", base + " 1"), ask("h2", base + " 2"), ask("h3", base + " 3")]
    _, removed = remove_overlap([ask("t", base + " 4")], heldout)
    assert [(repeat.repeats_id, repeat.kind) for repeat in removed] == [("h1", "near")]


def test_conversations_without_a_user_message_are_compared_whole():
    def report(prompt_id: str, content: str) -> Prompt:
        return Prompt(prompt_id, ({"role": "tool", "content": content},))

    train = [report("t1", "The disk of server nine is full"), report("t2", "All 300 backups were made overnight")]
    kept, removed = remove_overlap(train, [report("h", "The disk of server nine is full")])
    assert [prompt.id for prompt in kept] == ["t2"]
    assert [repeat.prompt_id for repeat in removed] == ["t1"]


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_hashing_finds_what_comparing_all_pairs_finds(threshold):
    """At the threshold a pair is missed with probability below 1e-4; the seeds are fixed."""
    generator = random.Random(0)
    words = ["cell", "gene", "leaf", "bone", "virus", "protein", "enzyme", "tissue", "river", "forest"]
    heldout = [ask(f"h{n}", " ".join(generator.choices(words, k=9))) for n in range(20)]
    train = []
    for number in range(60):
        changed = generator.choice(heldout).text.split()
        for _ in range(generator.randrange(1, 4)):
            changed[generator.randrange(9)] = generator.choice(words)
        train.append(ask(f"t{number}", " ".join(changed)))
    grams = {prompt.id: shingles(normalise(prompt.text)) for prompt in heldout + train}
    expected = {t.id for t in train if any(jaccard(grams[t.id], grams[h.id]) >= threshold for h in heldout)}
    _, removed = remove_overlap(train, heldout, threshold=threshold)
    assert {repeat.prompt_id for repeat in removed} == expected
    assert expected


def test_a_prompt_like_a_repeat_only_is_no_repeat():
    text = "How do bees find the way back to the hive after a long flight"
    first, middle, last = (
        ask("a", text),
        ask("b", text + " over the hills"),
        ask("c", text + " over the hills of Tyrol"),
    )
    assert duplicates_within([middle, last], threshold=0.75)
    assert [repeat.prompt_id for repeat in duplicates_within([first, middle, last], threshold=0.75)] == ["b"]


def test_nothing_held_out_removes_nothing():
    assert remove_overlap([HELDOUT], []) == ([HELDOUT], [])
    assert remove_overlap([], [HELDOUT]) == ([], [])


def test_duplicates_within_name_the_first_and_leave_a_list_without_repeats():
    prompts = [
        HELDOUT,
        ask("a", "Name the bases of DNA."),
        ask("b", HELDOUT.text.upper()),
        ask("c", HELDOUT.text + " Hm"),
    ]
    repeats = duplicates_within(prompts)
    assert [repeat[:3] for repeat in repeats] == [("b", "h1", "exact"), ("c", "h1", "near")]
    dropped = {repeat.prompt_id for repeat in repeats}
    assert duplicates_within([prompt for prompt in prompts if prompt.id not in dropped]) == []


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01])
def test_threshold_out_of_range_is_an_error(threshold):
    with pytest.raises(DraftbenchError, match="above 0 and at most 1"):
        duplicates_within([HELDOUT], threshold=threshold)


def test_a_held_out_query_in_an_earlier_turn_of_a_training_conversation_is_a_repeat():
    query = "Which enzyme copies DNA into RNA in a bacterium?"
    talk = Prompt(
        "talk",
        (
            {"role": "user", "content": query},
            {"role": "assistant", "content": "RNA polymerase."},
            {"role": "user", "content": "Thanks, and what does it need for that?"},
        ),
    )
    other = Prompt("other", ({"role": "user", "content": "Name three enzymes of the stomach."},))
    heldout = Prompt("held", ({"role": "user", "content": query},))
    kept, removed = remove_overlap([talk, other], [heldout])
    assert [prompt.id for prompt in kept] == ["other"]
    assert [(repeat.prompt_id, repeat.repeats_id) for repeat in removed] == [("talk", "held")]


@pytest.mark.parametrize("character", ["\u200b", "\ufeff", "\u00ad", "\u200d", "\u2063", "\U000e0041"])
def test_characters_that_are_not_seen_hide_no_repeat(character: str):
    question = "What does the mitochondrion do in a cell?"
    hidden = character.join(question)
    heldout, clear = [ask("h", question)], ask("c", "Name three bones")
    kept, (repeat,) = remove_overlap([ask("t", hidden), clear], heldout)
    assert (kept, repeat.prompt_id, repeat.kind) == ([clear], "t", "exact")
    assert remove_overlap([ask("t", question)], [ask("h", hidden)])[1][0].kind == "exact"
    assert remove_overlap([ask("t", character)], heldout)[1] == []


def _talk(prompt_id: str, *asked: str) -> Prompt:
    turns = [({"role": "user", "content": text}, {"role": "assistant", "content": "Well."}) for text in asked]
    return Prompt(prompt_id, tuple(message for turn in turns for message in turn)[:-1])


def test_a_short_follow_up_repeats_only_one_of_the_same_conversation():
    held = _talk("h", "Tell me about the whales of the south.", "Please continue.")
    train = [
        _talk("other", "Explain how a violin is built.", "Please continue."),
        _talk("same", "Tell me about the whales of the south", "please continue"),
        _talk("earlier", "Explain a glacier.", "Please continue.", "And how fast does one move in winter?"),
        _talk("alone", "Please continue."),
    ]
    kept, removed = remove_overlap(train, [held])
    assert [prompt.id for prompt in kept] == ["other", "earlier"]
    assert [repeat.prompt_id for repeat in removed] == ["same", "alone"]


def test_a_whole_question_repeats_another_one_whatever_came_before_it():
    held = _talk("h", "Hello!", "Which enzyme copies DNA into RNA in a bacterium?")
    train = [_talk("t", "Good evening to you.", "Which enzyme copies DNA into RNA in a bacterium?")]
    assert remove_overlap(train, [held])[0] == []


def test_repeats_in_context_have_the_same_tools_and_earlier_questions():
    prompts = [
        _talk("a", "Tell me about whales.", "Please continue."),
        _talk("b", "Explain a violin.", "Please continue."),
        _talk("c", "Tell me about whales", "Please continue!"),
        ask("d", "Book a table for two tomorrow", "book"),
        ask("e", "Book a table for two tomorrow", "reserve"),
        ask("f", "Book a table for two, tomorrow", "book"),
    ]
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "book", "arguments": {}}}]}
    answer = {"role": "tool", "content": "Table 7 is yours."}
    prompts.append(Prompt("g", (*prompts[3].messages, called, answer), prompts[3].tools))
    assert [repeat.prompt_id for repeat in repeats_in_context(prompts)] == ["c", "f"]


def test_signs_of_arithmetic_make_other_questions_in_context():
    texts = ["What is 6*3?", "What is 6/3?", "What is 6 * 3 ?", "What is 6*3??"]
    prompts = [ask(str(number), text) for number, text in enumerate(texts)]
    assert [(repeat.prompt_id, repeat.kind) for repeat in repeats_in_context(prompts)] == [("3", "exact")]
