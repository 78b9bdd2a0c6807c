"""The mathematics and the words of one replayed step, and the prose and formulas of Learn against the real engine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.decode.events import Fate
from engine.traces.answer import TraceAlternative, TraceRound, TraceToken
from workbench.learn import prose as learn_prose
from workbench.learn import text as learn_text
from workbench.replay import view

EVIL = "<img src=x onerror=alert(1)>"


def token(fate: Fate, text: str = "a", token_id: int = 1, **values: object) -> TraceToken:
    return TraceToken(text, token_id, fate, 0, **values)  # type: ignore[arg-type]


def told(*tokens: TraceToken, gamma: int = 3) -> TraceRound:
    return TraceRound(0, gamma, tokens, 0.01, 0.02, 0.001)


REFUSED = token(
    Fate.REJECTED,
    p=0.2,
    q=0.6,
    u=0.5,
    overlap=0.5,
    alternatives=(
        TraceAlternative(2, "b", 0.5, 0.1),
        TraceAlternative(1, "a", 0.2, 0.6),
        TraceAlternative(3, "c", 0.1, 0.05),
    ),
)
CORRECTED = token(Fate.CORRECTED, "b", 2, p=0.5, q=0.1, u=0.3)


def test_acceptance_is_capped_and_zero_where_nothing_was_proposed():
    assert view.acceptance(0.3, 0.6) == 0.5
    assert view.acceptance(0.6, 0.3) == 1.0
    assert view.acceptance(0.6, 0.0) == 0.0


def test_the_residual_of_a_whole_vocabulary_is_a_distribution():
    p, q = [0.5, 0.2, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]
    overlap = sum(map(min, p, q))
    assert view.residual(list(zip(p, q, strict=True)), overlap) == pytest.approx([1.0, 0.0, 0.0, 0.0])


def test_the_residual_equals_the_engine_s():
    torch = pytest.importorskip("torch")
    from engine.decode.sampling import overlap, residual

    generator = torch.Generator().manual_seed(3)
    p, q = (torch.softmax(3 * torch.randn(30, generator=generator), -1) for _ in "pq")
    ours = view.residual(list(zip(p.tolist(), q.tolist(), strict=True)), float(overlap(p, q)))
    assert ours == pytest.approx(residual(p, q).tolist(), abs=1e-6)


def test_the_residual_of_some_tokens_never_exceeds_one():
    random = np.random.default_rng(0)
    for _ in range(200):
        p, q = (random.dirichlet(np.full(50, 0.1)).astype(np.float32) for _ in "pq")
        overlap = float(np.minimum(p, q).sum(dtype=np.float32))
        listed = np.argsort(-p)[: random.integers(1, 50)]
        shares = view.residual([(float(p[i]), float(q[i])) for i in listed], overlap)
        assert 0 <= sum(shares) <= 1 + 1e-12
        assert min(shares) >= 0


def test_an_overlap_that_rounding_lifted_over_one_leaves_nothing():
    assert view.residual([(0.5, 0.5)], 1.0000002) == [0.0]


def test_a_refused_token_is_told_with_its_draw():
    judged = view.judgement(REFUSED, told(REFUSED, CORRECTED), greedy=False)
    assert judged.headline == "u = .50 ≥ .33: rejected"
    assert "p/q = .20/.60" in judged.detail
    assert (judged.chance, judged.draw) == (pytest.approx(1 / 3), 0.5)


def test_an_accepted_token_is_told_with_its_draw():
    kept = token(Fate.ACCEPTED, p=0.31, q=0.5, u=0.31)
    assert view.judgement(kept, told(kept), greedy=False).headline == "u = .31 < .62: accepted"
    sure = token(Fate.ACCEPTED, p=0.5, q=0.31, u=0.99)
    assert "always kept" in view.judgement(sure, told(sure), greedy=False).detail


def test_a_discarded_token_was_never_judged_and_says_why():
    lost = token(Fate.DISCARDED, q=0.4)
    after_refusal = view.judgement(lost, told(REFUSED, lost, CORRECTED), greedy=False)
    after_end = view.judgement(lost, told(token(Fate.ACCEPTED), lost), greedy=False)
    assert after_refusal.headline == after_end.headline == "never judged"
    assert "a token before it was refused" in after_refusal.detail
    assert "the answer had ended" in after_end.detail
    assert after_refusal.chance is None


def test_a_bonus_has_no_q_and_says_why():
    bonus = token(Fate.BONUS, p=0.5, u=0.1)
    assert "there is no q" in view.judgement(bonus, told(bonus), greedy=False).detail
    assert "nothing to judge" in view.judgement(bonus, told(bonus, gamma=0), greedy=False).detail


def test_at_temperature_zero_the_distributions_are_one_hot():
    kept = token(Fate.ACCEPTED, p=1.0, q=1.0, u=0.9)
    assert "one-hot" in view.judgement(kept, told(kept), greedy=True).detail
    assert "best token" in view.judgement(CORRECTED, told(REFUSED, CORRECTED), greedy=True).detail


def test_candidates_hold_the_proposed_and_the_drawn_token_and_their_residual():
    shown = view.candidates(REFUSED, CORRECTED, REFUSED.overlap, most=1)
    assert [(c.text, c.proposed, c.drawn) for c in shown] == [("a", True, False), ("b", False, True)]
    assert [c.residual for c in shown] == pytest.approx([0.0, 0.8])
    assert view.marks(shown) == "? proposed by the draft, ◀ drawn by the target."
    assert view.unlisted(shown) == "20% of the residual lies on tokens that this trace does not list."


def test_a_trace_without_alternatives_shows_the_tokens_themselves():
    bare = token(Fate.REJECTED, p=0.2, q=0.6, u=0.5, overlap=0.5)
    shown = view.candidates(bare, CORRECTED, bare.overlap)
    assert {(c.text, c.p, c.q) for c in shown} == {("a", 0.2, 0.6), ("b", 0.5, 0.1)}


def test_the_place_worth_looking_at_is_the_refusal_or_the_end():
    kept = token(Fate.ACCEPTED, p=1.0, q=1.0)
    assert view.telling_slot(told(kept, REFUSED, CORRECTED)) == 1
    assert view.telling_slot(told(kept, kept, token(Fate.BONUS, p=1.0))) == 2
    assert view.telling_slot(told()) == 0


def test_counters_add_up():
    kept = token(Fate.ACCEPTED, p=1.0, q=1.0)
    told_so_far = view.counters([told(kept, REFUSED, token(Fate.DISCARDED), CORRECTED)] * 2)
    assert told_so_far["accepted / examined"] == "2 / 4 = .50"
    assert told_so_far["accepted / proposed"] == "2 / 6 = .33"
    assert (told_so_far["tokens"], told_so_far["target forwards"], told_so_far["tau"]) == ("4", "2", "2.00")
    assert view.counters([])["tau"] == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.9999, "1"), (0.0, "0"), (0.31, ".31"), (0.018, ".018"), (0.0004, ".0004"), (2e-7, "2e-07")],
)
def test_probabilities_are_written_shortly(value: float, text: str):
    assert view.short(value) == text


def test_white_space_is_visible():
    assert view.visible(" a\n") == "'␣a↵'"


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_figures_escape_what_tokens_say(tone: str):
    shown = [
        view.Candidate(EVIL, 0.5, 0.2, 1.0, proposed=True, drawn=True),
        view.Candidate(EVIL, 0.1, 0.3, 0.0),
    ]
    judged = view.Judgement("x", "y", 0.4, 0.2)
    for figure in (
        view.probability_bars(shown, tone),
        view.residual_bars(shown, tone),
        view.draw_line(judged, tone),
    ):
        assert "<img" not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False)
    bars = view.probability_bars(shown, tone)
    assert list(bars.data[0].y) == [0, 1]  # two tokens that read the same are two bars
    assert [trace.name for trace in bars.data] == ["target, p", "draft, q"]
    assert len(view.probability_bars(shown, tone, draft=False).data) == 1


# Learn


def test_the_worked_round_is_what_the_engine_does():
    torch = pytest.importorskip("torch")
    from engine.decode.speculative import judge

    steps = learn_text.worked_round()
    verdict = judge(
        torch.tensor(learn_text.EXAMPLE_P),
        torch.tensor(learn_text.EXAMPLE_Q),
        torch.tensor(learn_text.EXAMPLE_PROPOSED),
        torch.tensor(learn_text.EXAMPLE_DRAWS, dtype=torch.float64),
    )
    assert sum(step.fate is Fate.ACCEPTED for step in steps) == verdict.accepted
    assert steps[-1].word == learn_text.EXAMPLE_WORDS[verdict.next_token]
    assert {step.fate for step in steps} == {Fate.ACCEPTED, Fate.REJECTED, Fate.DISCARDED, Fate.CORRECTED}


@pytest.mark.parametrize("draws", [(0.9, 0.1, 0.99, 0.95), (0.9, 0.1, 0.8, 0.3), (0.1, 0.3, 0.2, 0.7)])
def test_any_worked_round_is_what_the_engine_does(draws: tuple[float, ...]):
    torch = pytest.importorskip("torch")
    from engine.decode.speculative import judge

    p, q, proposed = learn_text.EXAMPLE_P, learn_text.EXAMPLE_Q, (1, 1, 2)
    steps = learn_text.worked_round(p, q, proposed, draws)
    verdict = judge(torch.tensor(p), torch.tensor(q), torch.tensor(proposed), torch.tensor(draws, dtype=torch.float64))
    assert sum(step.fate is Fate.ACCEPTED for step in steps) == verdict.accepted
    assert (steps[-1].fate, steps[-1].word) == (
        Fate.CORRECTED if verdict.refused else Fate.BONUS,
        learn_text.EXAMPLE_WORDS[verdict.next_token],
    )


def test_the_example_trace_adds_up():
    counts = learn_text.counts_of(learn_text.EXAMPLE_LENGTHS)
    assert counts.drafted == counts.accepted + counts.rejected + counts.discarded == 400
    assert counts.emitted == 275
    rates = counts.rates()
    # the trap "Five rates with one name" quotes these two
    trap = next(t for t in learn_text.passages(learn_prose.TRAPS) if t.title == "Five rates with one name")
    assert f"{rates['per_proposed']:.0%} or {rates['per_examined']:.0%}" in trap.text
    table = learn_text.as_others_report(counts).set_index("prints").value
    assert table["accept: accepted / proposed"] == rates["per_proposed"]


def test_every_passage_is_whole():
    for prose in (learn_prose.WORDS, learn_prose.STATISTICS, learn_prose.TRAPS):
        assert all(part.title and part.text for part in learn_text.passages(prose))
    assert all(trap.answer for trap in learn_text.passages(learn_prose.TRAPS))


def test_the_speed_up_chart_marks_the_best_gamma():
    from engine.measure.cost_model import best_gamma

    figure = learn_text.speedup_chart(0.7, 3, 0.1, "light")
    marked = {trace.name: trace.x[0] for trace in figure.data if len(trace.x) == 1}
    assert marked == {"your gamma": 3, "best gamma": best_gamma(0.7, 0.1)}
    hopeless = learn_text.speedup_chart(0.1, 3, 0.5, "dark")
    assert "best gamma" not in {trace.name for trace in hopeless.data}
