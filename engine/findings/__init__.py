"""Findings: the claims of arXiv 2503.07807, tested on runs.

claims        the claims as comparisons of runs
pairs         pairs of runs under one seed, and the places of a claim
pairing       which runs form a pair
mode_pairs    pairs of modes
efforts       equal tokens, equal steps, own schedule
sums          per-prompt sums of acceptance
pooling       effects with intervals over places
verdicts      from an effect to one of four verdicts
remarks       what a reader should know about a comparison's fairness
evaluate      all claims on a set of runs
of_home       all claims on the runs of a home
wanted        which runs would decide a claim
wanted_study  the study that would decide a claim
study_grid    runs as the grid of a study
as_json       findings as plain values
"""
