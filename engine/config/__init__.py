"""The configuration: the schema of a recipe by section, reading one, and what decides a run's results.

schema     the recipe: all sections together
section    what every section is, and the marks on its fields
models     target and draft
lora       the adapter of a draft or of a domain target
prompts    prompt files, folders and datasets
capture    how training prompts are answered
train      losses, modes, token selection, optimiser
measure    what is measured on held-out prompts
resources  what a run needs of a machine, for places that choose among machines
defaults   the default target, and defaults of decoding one prompt
reading    a file and its bases, `--set`, checks; and writing a recipe
decisive   which settings decide the draft's weights and its exact acceptance
idle       settings of a recipe that have no effect beside the others
identity   whether two recipes are the same: a hash of those settings
"""
