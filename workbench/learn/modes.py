"""How a draft learns: the prose of the Learn page on modes, with formulas and sources. Markdown and LaTeX; no Streamlit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A titled piece with its formula; `answer` is what Draftbench does about it, `key` what a recipe calls it."""

    title: str
    text: str
    formula: str = ""
    source: str = ""
    answer: str = ""
    key: str = ""


INTRODUCTION = (
    "A mode decides where the next batch of positions comes from, and nothing else: losses, trainer and measurements are the "
    "same. D is the loss, p the target's distribution and q the draft's, both given the tokens before the position."
)

MODES = (
    Entry(
        "Offline",
        "The target answers every training query once. Its answers are kept with the signal as a capture, and the draft goes "
        "over them several times, in a new order each time. The target works once, whatever is trained afterwards, and drafts "
        "that share a capture learn from the same text. R is the set of all positions of the answers.",
        r"L = \frac{1}{|R|} \sum_{t \in R} D(p_t, q_t)",
        "sequence distillation as in DistillSpec, arXiv 2310.08461",
        key="train.mode: offline",
    ),
    Entry(
        "Online",
        "Queries come as a stream, each once. The draft as it is proposes, the target judges, and where a token was refused "
        "the draft is known to have erred. After every few queries these positions W make a batch; then the next queries are "
        "decoded with the new weights. The text is the target's own all the while: speculation changes who proposes, not "
        "what comes out.",
        r"\begin{gathered} L = \frac{1}{|W|} \sum_{t \in W} D(p_t, q_t) \\[6pt]"
        r"W = \{t : \text{the proposal at } t \text{ was refused}\} \end{gathered}",
        "online speculative decoding (OSD), arXiv 2310.07177",
        "The loss sits at the distribution that the refused token was drawn from, one place before the corrected token in the "
        "text. A bonus token answers no proposal, so it is never learnt from. Judged positions that were accepted can be "
        "learnt from too, and a share of earlier answers can be mixed in.",
        "train.mode: online",
    ),
    Entry(
        "Online, from a replayed stream",
        "To decode a stream costs a pass of the target a round. Where the target's text is captured already, only the fates are "
        "missing, and they can be drawn for it. At a judged position the draft proposes x with chance q(x) and the "
        "target keeps it with min(1, p(x)/q(x)); a refusal is replaced by a draw from what p has more of than q. So x "
        "comes out *accepted* with chance min(p(x), q(x)), *corrected* with chance max(0, p(x) - q(x)), together p(x). "
        "Given that x stands in the text, it was accepted with the chance below. Text first and fates after it are "
        "therefore distributed exactly as in a decoded stream, at the price of one pass over the text.",
        r"\begin{aligned} P(\text{accepted} \mid x) &= \frac{\min(p(x),\, q(x))}{p(x)} \\[4pt]"
        r"&= \min\left(1, \frac{q(x)}{p(x)}\right) \end{aligned}",
        "follows from the rule of acceptance, arXiv 2211.17192",
        "Rounds are walked through as in decoding, so bonus tokens stay unjudged, and q is that of the draft as it was at this "
        "place of the stream. Runs of different modes can so learn from the very same text.",
        "train.online.stream: replay",
    ),
    Entry(
        "On-policy, sampled",
        "The draft learns on its own writing, where it will have gone astray in its own way. With chance lambda the batch of "
        "a step is written by the draft and scored by the target; else it is the captured one. No gradient runs through the "
        "sampling.",
        r"\begin{aligned} L = {}& (1 - \lambda)\, \mathbb{E}_{y \sim p}\Big[\tfrac{1}{|y|} \sum_t D(p_t, q_t)\Big] \\"
        r"& + \lambda\, \mathbb{E}_{y \sim q}\Big[\tfrac{1}{|y|} \sum_t D(p_t, q_t)\Big] \end{aligned}",
        "GKD, arXiv 2306.13649; DistillSpec, arXiv 2310.08461",
        key="train.mode: on_policy",
    ),
    Entry(
        "On-policy, assisted",
        "In serving, the draft never goes on for long from its own text: after a block the target has put it right. So from "
        "anchors in the target's text the draft proposes a block, and one pass of the target judges it. Tokens before the "
        "first refusal n get the loss; the refused one and those behind it get reverse KL, which fades with the distance.",
        r"L = \sum_{i < n} D(p_i, q_i) + \sum_{k \ge 0} 0.8^{\,k}\, \mathrm{KL}(q_{n+k} \,\|\, p_{n+k})",
        "Draft-OPD, arXiv 2605.29343; details reconstructed",
        key="train.on_policy.form: assisted",
    ),
)

SUPERVISION = (
    Entry(
        "White box",
        "The target's weights are at hand, so at each position the draft sees how likely the target found *every* token. One "
        "position then teaches as much as many draws from it would.",
        r"L_t = D(p_t, q_t)",
    ),
    Entry(
        "Black box",
        "Of the target only its text is seen, as when it answers behind an API. The draft is trained on the token x that was "
        "written. Averaged over what the target might have written that is forward KL and a constant: the same goal, told by "
        "one draw a position, so it takes more text to hear it.",
        r"\mathbb{E}_{x \sim p}\left[-\log q(x)\right] = \mathrm{KL}(p \,\|\, q) + H(p)",
        "sequence-level distillation; see also arXiv 2310.08461",
        "`capture.server` fetches answers from any OpenAI-compatible server. Its key is read from an environment variable: "
        "the recipe holds that variable's name and never the key.",
        "train.loss: sft",
    ),
    Entry(
        "Token selection",
        "Some tokens are beyond a small draft, others it knows already. A reference draft, trained before on everything, shows "
        "which: only the share S of positions is kept at which the draft lags most behind it, and the sum is divided by those "
        "kept.",
        r"\begin{gathered} L = \frac{1}{|S|} \sum_{t \in S} D(p_t, q_t) \\[6pt]"
        r"S = \text{the largest } D(p_t, q_t) - D(p_t, q^{\text{ref}}_t) \end{gathered}",
        "AdaSPEC, arXiv 2510.19779",
        key="train.selection.share",
    ),
)

FAIRNESS = (
    Entry(
        "Equal target tokens",
        "Both drafts were taught with the same amount of the target's text, each epoch counted. A stream passes every query "
        "once, so its counterpart is about one epoch offline. This asks: which mode makes more of the text?",
    ),
    Entry(
        "Equal optimiser steps",
        "Both drafts' weights were changed equally often. An offline step learns from all positions of its answers, an online "
        "step perhaps from refused ones alone, so one step may rest on far more text than another. This asks: which mode makes "
        "more of an update?",
    ),
    Entry(
        "Own schedule",
        "Each mode as one would use it: offline for several epochs, online for one pass. When offline wins here, part of that is "
        "simply *more epochs*. Seconds are told beside it, since a decoded stream also spends the time of serving.",
        answer="Findings compares modes at all three, and never mixes them. Learning curves can be drawn against steps, tokens or "
        "seconds.",
    ),
)
