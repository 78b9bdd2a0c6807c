"""Decoding, plain and speculative, as a generator of events, and the sampling rules under it.

speculative      the speculative loop
sampling         from logits to a distribution, and draws from it
settings         gamma, temperature, limits and seed of a decoding
events           fates, tokens and rounds
counts           rounds added up, and the rates of their sums
runner           a model with its key-value cache for ragged rows
row_by_row       each row with a plain cache: the reference
slot_runner      all rows in one cache of slots
slots            the key-value cache of ragged rows
layer_kinds      what the layers of a model attend to
slot_fit         whether a model decodes right in it
attention        attention to slots without copies
step_graphs      recorded steps: CUDA graphs
positions        whether a model is told positions, and up to where
device           ways between host and device
acceptance_rule  what is kept of a proposal, and the token after it
bare             Transformers' generate without a model's own settings
text             token ids to readable text as they come
one_prompt       one prompt decoded for a reader
"""
