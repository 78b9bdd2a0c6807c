"""What to expect of a draft on the server that people use, and what the server reported.

expected    what to expect of each server: rates, speed, schedule, flags
prediction  the rounds that a server should count
schedule    the best gamma by batch size in each server's form
synthetic   the flags that make a server accept as often without the draft
worth       is a draft worth it? one sentence
"""
