"""Prompts: what a draft is trained and measured on.

readers  prompts from the sources that a recipe names
formats  the rows of each kind of file
columns  where the parts of a record are found
records  one record as a prompt, or the reason why not
overlap  queries that occur in both training and held-out prompts
subsets  nested training sets of any size, and the sides of held-out prompts
packs/   prompt sets from published packages
"""
