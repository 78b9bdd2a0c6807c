"""A run's documents on disk: typed models with a schema number each, and readers that survive damage.

record       what all documents share: a model, a schema number, a reader
documents    reading a run's documents, damaged or not
status       status.json
events       events.jsonl
training     training.json
provenance   provenance.json
labels       labels.json
summary      measure/summary.json
certificate  the certificate in a summary
speed        the timing in a summary
interval     a value with its interval
capture      a capture's done.json
study_tag    the tag of a study
values       values of damaged files as text
"""
