"""Templates that write today's date: pinned, kept in the identity of what is made with it; random ones are refused."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from engine.capture.plan import CapturePlan
from engine.chat.prompt import Prompt
from engine.chat.rendering import end_of_turn, render
from engine.chat.template_date import apply_template, check_steady, clock_identity, pin_date, reads_clock
from engine.config.decisive import decisive
from engine.config.reading import parse_recipe, parse_section
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.paths import home
from engine.progress import SILENT
from engine.runs.folder import RunFolder
from engine.runs.plan import plan_training, split_prompts
from engine.runs.session import Session, load_target, open_session
from tests.conftest import byte_tokenizer, tiny_llama

TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3.2 has it: a date that the call may give, else today's.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}{{ 'Today: ' + date_string + '\n' }}"
)
WITH_TOOLS_ONLY = "{% if tools %}{{ strftime_now('%H:%M') }}{% endif %}"
ASKED = Prompt("a", ({"role": "user", "content": "Hello?"},))


def tokenizer(head: str, date: str | None = None) -> Any:
    dated = byte_tokenizer(head + TURNS)
    if date is not None:
        pin_date(dated, date)
    return dated


def text(made: Any) -> str:
    return str(made.decode(render(made, ASKED, context_tokens=None, max_new_tokens=0)))


def test_the_pinned_date_is_in_the_prompt_whatever_the_day():
    assert text(tokenizer(DATED, "2026-01-31")).startswith("Today: 31 Jan 2026\n")
    assert text(tokenizer(DATED, "run:2026-01-31")) == text(tokenizer(DATED, "2026-01-31T09:30"))


# The day in long chats alone, and where certain words are asked.
IN_LONG_CHATS = "{% if messages | length > 4 %}{{ strftime_now('%F') }}{% endif %}"
OF_SOME_WORDS = "{% if 'today' in messages[-1]['content'] %}{{ strftime_now('%F') }}{% endif %}"


@pytest.mark.parametrize(
    ("head", "reads", "always"),
    [
        (DATED, True, True),
        (WITH_TOOLS_ONLY, True, True),
        (IN_LONG_CHATS, True, False),
        (OF_SOME_WORDS, True, False),
        ("", False, False),
    ],
)
def test_a_template_that_names_the_clock_can_write_the_day_and_has_it_in_its_identity_if_it_always_does(
    head: str, reads: bool, always: bool
):
    dated = tokenizer(head, "2026-01-31")
    assert reads_clock(dated) is reads
    assert clock_identity(dated) == ({"date": "2026-01-31"} if always else {})


def test_every_part_of_a_date_is_written_as_strftime_writes_it():
    form = "%A %-d %B %y, %H:%M:%S %p %j %% %Y-%m-%d"
    at_noon = datetime.datetime(2026, 1, 3, 12, 5, 9)
    dated = tokenizer(
        "{% macro inner() %}{{ strftime_now(format='" + form + "') }}{% endmacro %}{{ inner() }}|", str(at_noon)
    )
    assert text(dated).split("|")[0] == at_noon.strftime(form)


def test_without_a_date_it_is_one_day_for_all_that_is_rendered():
    dated = tokenizer(DATED)
    assert text(dated) == text(dated)
    assert text(dated).split("\n")[0] == apply_template(dated, ASKED.messages).split("\n")[0]
    assert end_of_turn(dated) == end_of_turn(tokenizer(""))


@pytest.mark.parametrize(
    "head",
    [
        "{{ ['a', 'b'] | random }}",
        "{{ range(100) | random }}",
        "{{ lipsum() }}",
        "{% if messages | length > 4 %}{{ ['a', 'b'] | random }}{% endif %}",
    ],
)
def test_a_template_that_draws_is_refused(head: str):
    with pytest.raises(DraftbenchError, match="in more than one way"):
        text(tokenizer(head))
    check_steady(tokenizer(DATED))


@pytest.mark.parametrize("date", ["2025-13-45", "today", "2026-1-1", "run:", 20260131])
def test_what_is_no_date_is_refused_at_the_recipe(date: Any):
    with pytest.raises(DraftbenchError, match="template_date"):
        parse_section(ModelSpec, {"model": "m", "template_date": date})


def test_a_date_that_nobody_chose_makes_no_other_recipe():
    plain = {"target": {"model": "m"}}
    assert decisive({"target": {"model": "m", "template_date": None}}) == plain
    assert decisive({"target": {"model": "m", "template_date": "run:2026-01-31"}}) == plain
    assert decisive({"target": {"model": "m", "template_date": "2026-01-31"}}) != plain


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A recipe of a tiny target whose template writes the date, with a held-out prompt too long for any answer."""
    tiny_llama(max_position_embeddings=256).save_pretrained(tmp_path / "target")
    byte_tokenizer(DATED + TURNS).save_pretrained(tmp_path / "target")
    words = {"train": ["red", "blue"], "heldout": ["one", "two", "x" * 120, "long " * 100]}
    for side, texts in words.items():
        (tmp_path / f"{side}.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    prompts = {side: str(tmp_path / f"{side}.jsonl") for side in words}
    return {
        "target": str(tmp_path / "target"),
        "prompts": {**prompts, "max_prompt_tokens": 100},
        "measure": {"max_new_tokens": 16},
    }


def planned(session: Session) -> CapturePlan:
    return plan_training(home().captures, session.recipe, session.target, session.prompts.train)


@pytest.mark.slow
def test_a_run_keeps_the_day_it_began_on(values: dict[str, Any]):
    run = RunFolder.create(home(), parse_recipe(values))
    run.set_status(created_at="2026-01-31T12:00:00+00:00")
    first = planned(open_session(home(), run, run.recipe(), SILENT))
    assert run.recipe().target.template_date == "run:2026-01-31"
    run.set_status(created_at="2026-02-01T12:00:00+00:00")
    again = planned(open_session(home(), run, run.recipe(), SILENT))
    assert (first.address, first.spec["date"]) == (again.address, "2026-01-31")
    other = parse_recipe({**values, "target": {"model": values["target"], "template_date": "2026-02-01"}})
    fixed = open_session(home(), RunFolder.create(home(), other), other, SILENT)
    assert planned(fixed).address != first.address


@pytest.mark.slow
@pytest.mark.parametrize("head", [IN_LONG_CHATS, OF_SOME_WORDS])
def test_a_day_that_only_some_chats_have_is_kept_as_well(values: dict[str, Any], tmp_path: Path, head: str):
    byte_tokenizer(head + TURNS).save_pretrained(tmp_path / "target")
    turns = [{"role": role, "content": "today"} for role in ("user", "assistant") * 3][:5]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": turns}))
    run = RunFolder.create(home(), parse_recipe(values))
    run.set_status(created_at="2026-01-31T12:00:00+00:00")
    first = planned(open_session(home(), run, run.recipe(), SILENT))
    assert run.recipe().target.template_date == "run:2026-01-31"
    assert str(byte_tokenizer().decode(first.prompt_ids[0])).startswith("2026-01-31<|im_start|>")
    assert planned(open_session(home(), run, run.recipe(), SILENT)).address == first.address


@pytest.mark.slow
def test_heldout_prompts_that_leave_no_room_for_an_answer_are_left_out_and_counted(values: dict[str, Any]):
    recipe = parse_recipe(values)
    target = load_target(recipe)
    split = split_prompts(recipe, target)
    assert split.counts["heldout_beyond_context"] == 1
    assert [len(prompt.text) for prompt in split.watched + split.measured] == [3, 3, 120]
    without = parse_recipe({**values, "prompts": {**values["prompts"], "max_prompt_tokens": None}})
    assert "heldout_beyond_context" not in split_prompts(without, target).counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["%F", "%e %B %Y", "%-d.%-m.%y", "%D %T", "%R", "%_d", "%^a", "%h %C", "%k", "%%Y is %Y, 100%", "%n%t|%P"]
)
def test_every_directive_of_strftime_is_written_as_python_writes_it(form: str):
    dated = tokenizer("{{ strftime_now('" + form + "') }}", "2025-03-09T14:05")
    wanted = datetime.datetime(2025, 3, 9, 14, 5).strftime(form)
    assert text(dated).partition("<|im_start|>")[0] == wanted
    composed = tokenizer("{% set f = '%' ~ 'F' %}{{ strftime_now(f) }}", "2025-03-09")
    assert text(composed).startswith("2025-03-09<")
    assert reads_clock(composed)
