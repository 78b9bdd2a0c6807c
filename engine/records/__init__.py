"""A run's documents on disk: typed models with a schema number each, and readers that survive damage.

record       what all documents share: a model, a schema number, a reader
status       status.json, stop.json
events       events.jsonl: each kind of event; parsing, replaying, appending
training     training.json
provenance   provenance.json
labels       labels.json
summary      measure/summary.json
certificate  the certificate in a summary
speed        the timing in a summary
interval     a value with its interval
capture      a capture's done.json
served       what a server reported of a draft
slurm_job    slurm.json
step_times   seconds of a round by batch size and context
parity       a draft on a real server, beside what was predicted
study_tag    the tag of a study
recipe       config.yaml
folders      the folders of runs
files        the names of a run's files
values       times and JSON, for the index and the disk
"""
