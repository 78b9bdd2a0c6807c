"""From a measured draft to the server that people use: what to expect of it there, and what the server reported.

readers/    what servers report, read
expected    what to expect of each server: rates, speed, schedule, flags
schedule    the best gamma by batch size in each server's form
synthetic   the flags that make a server accept as often without the draft
worth       is a draft worth it? one sentence
"""
