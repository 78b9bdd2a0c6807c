"""Runs: their folders, and doing one from the first phase to the last.

folder         a run's folder
recipes        reading the recipe of a new run
inputs         whether what new runs read is there, before they have a folder
as_it_is       a user's first recipes: measure a model as it is, train a draft for it
execution      working on a run, with its outcome written into its folder
training       training the draft of a run
process        whether a run's process is alive
plan           what a run of a recipe will do: prompts and captures
session        target, prompts and captures of a piece of work
began_with     the target and prompts of a run: others are refused when it goes on
drafts         the draft that a recipe starts from
draft_size     how large a run's draft is, on disk and in trained weights
measurement    measuring the trained draft against the untrained one
step_times     timing a run's draft by batch size and context length
pair           a target and its draft, loaded by name
compare_runs   two runs compared: what `draftbench compare` prints
trained_alike  whether trainings that look alike saw the same text
listing        runs as rows
description    everything about one run
labels         title, tags, note, pin, archive, baseline
provenance     versions, commit, machine, hashes
samples        the sample runs that come with Draftbench
removing       removing a run, and what to say before
trash          removed runs, which can be restored for a day
advice         what to do next with an unfinished run
faults         faults of the machine, explained
"""
