"""The prose, formulas and examples of the Learn page, against the engine."""

from __future__ import annotations

import pytest

from engine.decode.events import Fate
from engine.measure.decision import ANSWERS
from workbench.learn import prose, text


def test_the_words_of_the_verdict_and_the_certificate_are_explained():
    titles = [word.title for word in text.passages(prose.WORDS)]
    assert "certificate" in titles
    assert ", ".join(ANSWERS) in titles


def test_the_worked_round_is_what_the_engine_does():
    torch = pytest.importorskip("torch")
    from engine.decode.acceptance_rule import judge

    steps = text.worked_round()
    verdict = judge(
        torch.tensor(text.EXAMPLE_P),
        torch.tensor(text.EXAMPLE_Q),
        torch.tensor(text.EXAMPLE_PROPOSED),
        torch.tensor(text.EXAMPLE_DRAWS, dtype=torch.float64),
    )
    assert sum(step.fate is Fate.ACCEPTED for step in steps) == verdict.accepted
    assert steps[-1].word == text.EXAMPLE_WORDS[verdict.next_token]
    assert {step.fate for step in steps} == {Fate.ACCEPTED, Fate.REJECTED, Fate.DISCARDED, Fate.CORRECTED}


@pytest.mark.parametrize("draws", [(0.9, 0.1, 0.99, 0.95), (0.9, 0.1, 0.8, 0.3), (0.1, 0.3, 0.2, 0.7)])
def test_any_worked_round_is_what_the_engine_does(draws: tuple[float, ...]):
    torch = pytest.importorskip("torch")
    from engine.decode.acceptance_rule import judge

    p, q, proposed = text.EXAMPLE_P, text.EXAMPLE_Q, (1, 1, 2)
    steps = text.worked_round(p, q, proposed, draws)
    verdict = judge(torch.tensor(p), torch.tensor(q), torch.tensor(proposed), torch.tensor(draws, dtype=torch.float64))
    assert sum(step.fate is Fate.ACCEPTED for step in steps) == verdict.accepted
    assert (steps[-1].fate, steps[-1].word) == (
        Fate.CORRECTED if verdict.refused else Fate.BONUS,
        text.EXAMPLE_WORDS[verdict.next_token],
    )


def test_the_example_trace_adds_up():
    counts = text.counts_of(text.EXAMPLE_LENGTHS)
    assert counts.drafted == counts.accepted + counts.rejected + counts.discarded == 400
    assert counts.emitted == 275
    rates = counts.rates()
    # the trap "Six rates with one name" quotes these two
    trap = next(t for t in text.passages(prose.TRAPS) if t.title == "Six rates with one name")
    assert f"{rates['per_proposed']:.0%} or {rates['per_examined']:.0%}" in trap.text
    table = text.as_others_report(counts).set_index("prints").value
    assert table["accept: accepted / proposed"] == rates["per_proposed"]


def test_every_passage_is_whole():
    for part in (prose.WORDS, prose.STATISTICS, prose.TRAPS):
        assert all(passage.title and passage.text for passage in text.passages(part))
    assert all(trap.answer for trap in text.passages(prose.TRAPS))


def test_the_speed_up_chart_marks_the_best_gamma():
    from engine.measure.cost_model import best_gamma

    figure = text.speedup_chart(0.7, 3, 0.1, "light")
    marked = {trace.name: trace.x[0] for trace in figure.data if len(trace.x) == 1}
    assert marked == {"your gamma": 3, "best gamma": best_gamma(0.7, 0.1)}
    hopeless = text.speedup_chart(0.1, 3, 0.5, "dark")
    assert "best gamma" not in {trace.name for trace in hopeless.data}
