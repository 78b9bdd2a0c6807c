"""From a measured draft to the server that people use: what to expect of it there, and what the server reported.

expected      what to expect of each server: rates, speed, schedule, flags
schedule      the best gamma by batch size in each server's form
synthetic     the flags that make a server accept as often without the draft
worth         is a draft worth it? one sentence
prediction    what a server should count, from a run's measurement
importing     a server's figures as a served measurement
measurements  served measurements in a run's folder
detection     which server answers at an address
probe         asking a live server
probe_counts  figures of answers and of /metrics as one
probe_prompts  the prompts that a probe sends
figures       predicted beside served, with intervals
causes        why the two differ, ranked by evidence
verdict       agrees, differs, or open
readers/      what servers report, read
"""
