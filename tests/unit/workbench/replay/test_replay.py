"""The judgement of one replayed step: its numbers, its words and its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.decode.events import PROPOSED, Alternative, Fate, Round, Token
from workbench.replay import figures, judgement

EVIL = "<img src=x onerror=alert(1)>"


def token(fate: Fate, text: str = "a", token_id: int = 1, **values: object) -> Token:
    return Token(token_id, fate, 0, text=text, **values)  # type: ignore[arg-type]


def a_round(*tokens: Token) -> Round:
    proposed = sum(token.fate in PROPOSED for token in tokens)
    return Round(0, 0, proposed, tokens, 0.01, 0.02, 0.001)


REFUSED = token(
    Fate.REJECTED,
    target_prob=0.2,
    draft_prob=0.6,
    uniform=0.5,
    overlap=0.5,
    alternatives=(
        Alternative(2, 0.5, 0.1, "b"),
        Alternative(1, 0.2, 0.6, "a"),
        Alternative(3, 0.1, 0.05, "c"),
    ),
)
CORRECTED = token(Fate.CORRECTED, "b", 2, target_prob=0.5, draft_prob=0.1, uniform=0.3)


def test_the_residual_of_a_whole_vocabulary_is_a_distribution():
    p, q = [0.5, 0.2, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]
    overlap = sum(map(min, p, q))
    assert judgement.residual(list(zip(p, q, strict=True)), overlap) == pytest.approx([1.0, 0.0, 0.0, 0.0])


def test_the_residual_equals_the_engine_s():
    torch = pytest.importorskip("torch")
    from engine.decode.sampling import overlap, residual

    generator = torch.Generator().manual_seed(3)
    p, q = (torch.softmax(3 * torch.randn(30, generator=generator), -1) for _ in "pq")
    ours = judgement.residual(list(zip(p.tolist(), q.tolist(), strict=True)), float(overlap(p, q)))
    assert ours == pytest.approx(residual(p, q).tolist(), abs=1e-6)


def test_the_residual_of_some_tokens_never_exceeds_one():
    random = np.random.default_rng(0)
    for _ in range(200):
        p, q = (random.dirichlet(np.full(50, 0.1)).astype(np.float32) for _ in "pq")
        overlap = float(np.minimum(p, q).sum(dtype=np.float32))
        listed = np.argsort(-p)[: random.integers(1, 50)]
        shares = judgement.residual([(float(p[i]), float(q[i])) for i in listed], overlap)
        assert 0 <= sum(shares) <= 1 + 1e-12
        assert min(shares) >= 0


def test_an_overlap_that_rounding_lifted_over_one_leaves_nothing():
    assert judgement.residual([(0.5, 0.5)], 1.0000002) == [0.0]


def test_a_refused_token_is_reported_with_its_draw():
    judged = judgement.judgement(REFUSED, a_round(REFUSED, CORRECTED), greedy=False)
    assert judged.headline == "u = .50 ≥ .33: rejected"
    assert "p/q = .20/.60" in judged.detail
    assert (judged.chance, judged.draw) == (pytest.approx(1 / 3), 0.5)


def test_an_accepted_token_is_reported_with_its_draw():
    kept = token(Fate.ACCEPTED, target_prob=0.31, draft_prob=0.5, uniform=0.31)
    assert judgement.judgement(kept, a_round(kept), greedy=False).headline == "u = .31 < .62: accepted"
    sure = token(Fate.ACCEPTED, target_prob=0.5, draft_prob=0.31, uniform=0.99)
    assert "always accepted" in judgement.judgement(sure, a_round(sure), greedy=False).detail


@pytest.mark.parametrize(
    ("p", "q", "u", "headline", "odds"),
    [
        (0.4164, 0.9997, 0.4166, "u = .4166 ≥ .4165: rejected", "p/q = .4164/.9997 = .4165"),
        (0.4164, 0.9997, 0.4163, "u = .416 < .417: accepted", "p/q = .416/.9997 = .417"),
        (0.05005, 0.5, 0.0999, "u = .0999 < .100: accepted", "p/q = .0500/.500 = .100"),
        (0.9997, 0.99999, 0.9998, "u = .9998 ≥ .9997: rejected", "p/q = .9997/.99999 = .9997"),
        (1.4e-5, 3.5e-5, 0.5, "u = .50 ≥ .40: rejected", "p/q = 1.4e-05/3.5e-05 = .40"),
    ],
)
def test_a_draw_and_the_chance_that_it_missed_or_met_never_read_alike(p, q, u, headline, odds):
    """With two digits the first read "u = .42 ≥ .42" and "p/q = .42/1", the third "u = 1 ≥ 1: rejected"."""
    judged = token(Fate.ACCEPTED if u * q < p else Fate.REJECTED, target_prob=p, draft_prob=q, uniform=u)
    told = judgement.judgement(judged, a_round(REFUSED, CORRECTED), greedy=False)
    assert (told.headline, odds in told.detail) == (headline, True)
    drawn = figures.draw_line(told, "light")
    shown = [drawn.layout.title.text, *(note.text for note in drawn.layout.annotations)]
    number, chance = headline.partition(":")[0].removeprefix("u = ").replace("≥", "<").split(" < ")
    assert f"u = {number}" in shown
    assert f"Draw against min(1, p/q) = {chance}" in shown


def test_a_discarded_token_was_never_judged_and_says_why():
    lost = token(Fate.DISCARDED, draft_prob=0.4)
    after_refusal = judgement.judgement(lost, a_round(REFUSED, lost, CORRECTED), greedy=False)
    after_end = judgement.judgement(lost, a_round(token(Fate.ACCEPTED), lost), greedy=False)
    assert after_refusal.headline == after_end.headline == "never judged"
    assert "a token before it was rejected" in after_refusal.detail
    assert "the answer had already ended" in after_end.detail
    assert after_refusal.chance is None


def test_a_bonus_has_no_q_and_says_why():
    bonus = token(Fate.BONUS, target_prob=0.5, uniform=0.1)
    kept = token(Fate.ACCEPTED)
    assert "there is no q" in judgement.judgement(bonus, a_round(kept, bonus), greedy=False).detail
    alone = judgement.judgement(bonus, a_round(bonus), greedy=False).detail
    assert "nothing to judge" in alone
    assert "no extra cost" not in alone, "the forward pass was made for this token"


def test_at_temperature_zero_the_distributions_are_one_hot():
    kept = token(Fate.ACCEPTED, target_prob=1.0, draft_prob=1.0, uniform=0.9)
    assert "1 for the best token" in judgement.judgement(kept, a_round(kept), greedy=True).detail
    assert "most likely token" in judgement.judgement(CORRECTED, a_round(REFUSED, CORRECTED), greedy=True).detail


def test_candidates_hold_the_proposed_and_the_drawn_token_and_their_residual():
    shown = judgement.candidates(REFUSED, CORRECTED, REFUSED.overlap, most=1)
    assert [(c.text, c.proposed, c.drawn) for c in shown] == [("a", True, False), ("b", False, True)]
    assert [c.residual for c in shown] == pytest.approx([0.0, 0.8])
    assert figures.marks(shown) == "? proposed by the draft, ◀ drawn by the target."
    assert figures.unlisted(shown) == "20% of the residual is on tokens that this trace does not list."


def test_a_trace_without_alternatives_shows_the_tokens_themselves():
    bare = token(Fate.REJECTED, target_prob=0.2, draft_prob=0.6, uniform=0.5, overlap=0.5)
    shown = judgement.candidates(bare, CORRECTED, bare.overlap)
    assert {(c.text, c.p, c.q) for c in shown} == {("a", 0.2, 0.6), ("b", 0.5, 0.1)}


def test_the_place_worth_looking_at_is_the_refusal_or_the_end():
    kept = token(Fate.ACCEPTED, target_prob=1.0, draft_prob=1.0)
    assert judgement.default_slot(a_round(kept, REFUSED, CORRECTED)) == 1
    assert judgement.default_slot(a_round(kept, kept, token(Fate.BONUS, target_prob=1.0))) == 2
    assert judgement.default_slot(a_round()) == 0


def test_counters_add_up():
    kept = token(Fate.ACCEPTED, target_prob=1.0, draft_prob=1.0)
    counters = judgement.counters([a_round(kept, REFUSED, token(Fate.DISCARDED), CORRECTED)] * 2)
    assert counters["accepted / examined"] == "2 / 4 = .50"
    assert counters["accepted / proposed"] == "2 / 6 = .33"
    assert (counters["tokens"], counters["target forwards"], counters["tau"]) == ("4", "2", "2.00")
    assert judgement.counters([])["tau"] == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.9967, ".997"),
        (0.99996, ".99996"),
        (0.0, "0"),
        (0.31, ".31"),
        (0.018, ".018"),
        (0.0014, ".0014"),
        (0.00004, "4.0e-05"),
        (2e-7, "2.0e-07"),
    ],
)
def test_probabilities_are_written_shortly(value: float, text: str):
    assert judgement.short(value) == text


def test_white_space_is_visible():
    assert judgement.visible(" a\n") == "'␣a↵'"


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_figures_escape_what_tokens_say(tone: str):
    shown = [
        judgement.Candidate(EVIL, 0.5, 0.2, 1.0, proposed=True, drawn=True),
        judgement.Candidate(EVIL, 0.1, 0.3, 0.0),
    ]
    judged = judgement.Judgement("x", "y", 0.4, 0.2)
    for figure in (
        figures.probability_bars(shown, tone),
        figures.residual_bars(shown, tone),
        figures.draw_line(judged, tone),
    ):
        assert "<img" not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False)
    bars = figures.probability_bars(shown, tone)
    assert list(bars.data[0].y) == [0, 1]  # two tokens that read the same are two bars
    assert [trace.name for trace in bars.data] == ["target, p", "draft, q"]
    assert len(figures.probability_bars(shown, tone, draft=False).data) == 1
