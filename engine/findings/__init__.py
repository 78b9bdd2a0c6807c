"""Findings: the claims of arXiv 2503.07807, tested on runs.

runs        the runs that take part, and the facts that decide what each may be compared with
pairs       pairs of runs under one seed, and the places in which a claim is tested
efforts     the efforts at which modes of training are compared
claim       how a claim is tested: its pairs, and what is missing
claims      the claims
pooling     effects with intervals, pooled over cells and domains
verdicts    from an effect to one of five verdicts
words       a claim in one sentence, and the paper
remarks     what is unfair in a comparison
evaluate    all claims on some runs
missing     the study and the runs that would decide a claim
study_grid  runs as the grid of a study
home        the findings of a home
kept        results on disk, until a run changes
as_json     findings as plain values
"""
