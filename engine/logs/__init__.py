"""A user's own chat logs as training and held-out prompts.

importing  the whole import, step by step
output     the folder that an import writes: complete or not at all
files      the rows of log files
queries    the queries in a row, and their answers
pii        personal data and keys replaced by placeholders
"""
