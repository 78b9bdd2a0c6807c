"""The prose of the Learn page, Markdown. A block is its title, then its text; '->' begins what Draftbench does."""

WORDS = """
target
The large model. What it would have written is what comes out, token for token or draw for draw. Its
distribution is called **p**.

draft
The small model that proposes tokens ahead of the target. Its distribution is called **q**. A better draft
makes it faster, never different.

gamma
How many tokens the draft proposes in a round (`num_draft_tokens` in a recipe).

round
One proposal of gamma tokens and the one pass of the target that checks all of them at once.

fate
What became of a token: accepted, rejected, discarded, corrected or bonus.

alpha, acceptance rate
How often the target keeps what the draft proposes. Six definitions are in use, and they differ: always say
which.

tau
Tokens that come out for each pass of the target, the target's own one included. Others call it acceptance
length or block efficiency. At least 1.

certificate
The tests that every measurement makes of the claim that the output is the target's own. They pass or fail; a draft
whose certificate has not passed is not ranked, and never called *serve it*.

serve it, no gain, not decided yet
The verdict on a draft. **Serve it**: with it decoding was faster on the clock than plain decoding by the same engine
and than Transformers' `generate`, with the whole interval of the ratio above 1, on the same prompts in the same dtype.
**No gain**: it was slower than one of them, with the whole interval. **Not decided yet**: an interval contains 1, or
something was not timed. Beside the verdict is what would change it.

slice
A part of the text that is looked at by itself: one kind of token, one prompt group, one stretch of the answer, or where
the target itself is unsure. Training can gain most in the slices that hold most of the refusals: see Compare, tab
Slices.

c
The time of one draft pass over the time of one target pass, measured on your machine.

capture
The target's answers to a set of prompts, kept together with the *signal*. Drafts that share a capture learn
from the same text.

signal
What the target thought of every token it could have written at each position: exact, or the likeliest tokens
and the mass of all others.

scenario
Where training prompts come from: **historical** (what users really asked), **curated** (collected for the
domain), **synthetic** (the target writes them itself).

mode
How the draft learns: **offline** (capture once, go over it several times), **online** (a stream of queries,
each seen once), **on-policy** (the draft writes and the target grades).

stream
The queries of online training in the order in which they come. It is **decoded** (speculatively, as in serving) or
**replayed** (fates drawn for text that is captured already).

supervision
**White box**: the draft learns from the target's whole distribution. **Black box**: from its text alone, as
when the target is only an API.

recipe, run, study
A recipe is a YAML file. A run is one draft trained and measured from it. A study is a grid of runs that share
captures; each combination of its settings is a **cell**, made by one run.
"""

TRAPS = """
The wrong q
If q is recorded before temperature, top-k or top-p, acceptance looks several points too high.
-> q is the distribution that the token was really drawn from, and target and draft go through the same settings.
The certificate has a draft that equals its target accept everything.

A draft that always proposes its best token
Then q is 1 for that token, and it must be kept with chance p. Engines differ, and rates under different rules
do not compare.
-> Every measurement carries its acceptance rule. Runs under different rules are marked as not comparable.

Greedy text that parts ways in bfloat16
A pass over one token and a pass over several round differently. Near a tie the best token may change, which
looks like a lossy engine.
-> Identity is proved in float32. In bfloat16 the certificate shows where texts part and how near the tie was.

A high rate that brings no speed
Acceptance alone says little: a draft at a third of the target's cost needs a far higher rate than one at a
tenth.
-> c is measured with each run, and so are the speed-up on the clock, the best gamma and the acceptance from
which it pays.

Six rates with one name
The same trace is 44% or 69% accepted, depending on what one divides by.
-> Every number says its definition; Compare lets you switch, and shows what other systems would print.

Good in training, bad in serving
The number that was watched in training does not always carry over to the server.
-> `draftbench export` loads the written folder again with plain Transformers and checks that it measures the
same; `draftbench served parity` serves it on llama.cpp or vLLM and compares with what was predicted.

Vocabularies that only look alike
Equal sizes do not mean equal ids, and padded sizes differ although the tokens are the same.
-> The ids of draft and target are probed before anything starts. Padding is kept out of losses and
draws.

The chat template
One beginning-of-text mark too many, or another template in training than in serving, costs acceptance silently.
-> One template renders training, measurement and decoding; an exported draft carries it along.

Held-out prompts that were trained on
A near copy of a test question among the training prompts flatters the draft.
-> Training prompts that equal or resemble a held-out one are removed and counted in the run's origin.

A truncated signal
Keeping only the likeliest tokens and scaling them up to 1 makes the draft too sure of itself.
-> The mass of all other tokens is kept as one bucket, or the signal is stored exactly.

One seed, or few prompts
Two drafts may change places with another seed, and tokens of one answer are not independent.
-> Intervals resample whole prompts, drafts are compared on the same text, and Findings wants three seeds.

Speed measured carelessly
A first pass that warms up, a busy machine or another thread count decides the result.
-> Plain and speculative decoding take turns on the same prompts after a warm-up; dtype, threads, gamma and
temperature are shown beside the number.

An answer that ends inside a proposal
Tokens after the end are not output, but are easily counted as such.
-> An end among the accepted tokens cuts the round; what follows is discarded.

Characters made of several tokens
Chinese text and emoji come in pieces that alone show as �.
-> Text waits until a character is whole.
"""

STATISTICS = """
Intervals
A rate is a sum over prompts divided by another. The prompts are drawn again with replacement, thousands of
times, and the middle 95% of the results is the interval. Prompts, not tokens: the tokens of one answer depend
on each other, and treating them as independent would make intervals far too narrow.

Differences
Two drafts are compared on the same prompts and the same text of the target, and both are drawn again
together. What makes a prompt hard for both drops out, so a difference is known much better than either rate.
Two intervals may overlap although the difference is clear: look at the difference.

Positions that only one gets right
For greedy agreement the four counts (both, only A, only B, neither) are shown with McNemar's exact test. It
takes positions as independent, so its p-value is too small: it describes, the interval decides.

Seeds
Training involves chance. A claim is called reproduced only with at least three seeds that all point the same way;
the seeds are added up within each prompt.

The alarm
What was accepted in a trace must agree with the sum of what p and q predict for it. More than four standard
deviations apart means that the engine has a fault, not your draft.

The certificate
Each measured pair is checked for losslessness: a draft that equals the target is never refused; greedy
speculative text equals greedy text token for token in float32, also in a batch of prompts of different length;
tokens drawn many times at some places of the held-out text pass a chi-square test against the target's own
distribution there. One more chi-square is about this build, not about the pair: its sampling rule, on a built-in
pair small enough to list every text. A pair that fails is kept off leaderboards and findings.
"""

MODES = (
    "A mode decides where the next batch of positions comes from, and nothing else: losses, trainer and measurements "
    "are the same. D is the loss, p the target's distribution and q the draft's, both given the tokens before the "
    "position."
)

FAIRNESS = """
Equal target tokens
Both drafts were taught with the same amount of the target's text, each epoch counted. A stream passes every
query once, so its counterpart is about one epoch offline. The question is which mode makes more of the text.

Equal optimiser steps
Both drafts' weights were changed equally often. An offline step learns from all positions of its answers, an
online step perhaps from refused ones alone, so one step may rest on far more text than another. The question
is which mode makes more of an update.

Own schedule
Each mode as one would use it: offline for several epochs, online for one pass. When offline wins here, part of
that is simply *more epochs*. Seconds are shown beside it, since a decoded stream also spends the time of
serving.
-> Findings compares modes at all three, and never mixes them. Learning curves can be drawn against steps,
tokens or seconds.
"""
