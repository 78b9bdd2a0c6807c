"""The names of a run's files, so that a folder can be looked at without loading the models that read it."""

from __future__ import annotations

CONFIG = "config.yaml"
EVENTS = "events.jsonl"
STATUS = "status.json"
STOP = "stop.json"
LOCK = ".lock"
SLURM_JOB = "slurm.json"
PROVENANCE = "provenance.json"
LABELS = "labels.json"
TRAINING = "training.json"
SUMMARY = "measure/summary.json"
STEP_TIMES = "measure/step_times.json"
