"""Prompts: what a draft is trained and measured on.

`prompts` says what a prompt is, `records` turns one record of a file into a prompt or a
reason why not, `formats` reads the rows of each kind of file, and `readers` puts them
together for the sources of a recipe. `rendering` makes a prompt into the token ids the
target sees, through the tokenizer's own chat template. `overlap` keeps held-out queries
out of the training prompts.
"""
