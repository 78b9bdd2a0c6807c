"""The library of Draftbench: everything but the browser. Imports point one way, see tests/unit/test_import_rule.py.

capture/    the target's answers to prompts with their signal, on disk
chat/       conversations in one form, chat templates, what ends an answer
cli/        the `draftbench` command
config/     the schema of a recipe, reading it, its identity
data/       prompts: reading, overlap, packs of real prompts
decode/     sampling rules, the speculative loop, its events
cluster/    runs and captures on Ray and Slurm
deploy/     a draft on the server that people use
distill/    losses, the trainer, the training modes
explore/    many runs at once: figures, Pareto fronts, importance of settings
export/     a draft for a server: safetensors or GGUF, preflight, start command
findings/   the paper's claims and their verdicts
index/      the DuckDB index over the run folders
jobs/       the queue of runs
logs/       prompts from a user's own logs
magpie/     prompts that the target writes
measure/    acceptance, speed, cost model, certificate, statistics
models/     from a name to a loaded model; the draft
planning/   checks and estimates before a start, the doctor
records/    a run's documents on disk as typed models
runs/       run folders, and doing a run
served/     everything that talks to a server
slices/     where a draft fails
study/      grids of runs
traces/     answers token by token, live and stored
tune/       domain targets: LoRA and its effect
untrusted/  limits on files, text and code of others
catalogue   losses, modes, export formats and servers by name, without torch
errors      what went wrong, why it matters, how to fix it
fileio      JSON and Parquet on disk: atomic, append-only
ranks       whether a launcher has started this process as one of several
numbers     numbers and intervals as text
packages    files out of pinned packages, verified by hash
paths       where results and downloads are kept
progress    progress bars, and asking whether to stop
stopping    ending work soon after a signal
__main__    `python -m engine`, as the queue starts it
"""

__version__ = "0.1.0"
