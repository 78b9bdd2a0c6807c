"""Speed beside what people would use instead: the rows of `make bench` and of benchmarks/gpu.py.

pairs        ways of doing the same work, timed in turns, and the ratios between them
record       a benchmark's JSON: rows, figures, the machine, and whether anything else ran on it
session      a run of some rows: quiet before it begins, a limit of time, failures noted beside the others
subjects     the models and prompts that are timed: the embedded pairs, or random weights of a given shape
generation   Transformers' own `generate`, in one batch, with a static cache, or assisted
decoding     rows: plain and speculative, verification, batches, domains
capturing    row: the target's answers to many prompts
training     rows: the whole trainer beside others, and the body and head alone
commands     rows: how long commands take to start, the quickstart, exact acceptance
peers        programs in other checkouts and environments, asked round by round
rows         the rows of a kind of machine, and how much of each is done
goals        what each figure should reach
"""
