"""Magpie: synthetic prompts that the target writes itself.

recipe       the recipe: target, steering, filters
plan         what will be written, known before weights are loaded
user_turn    where in a chat template the user speaks
generation   the target writes the queries
filters      which queries are kept, and why others are not
prompt_file  the resulting prompt file
"""
