"""Captures: the target's answers to a set of prompts with its distribution at every token, kept on disk and shared.

plan      what a capture will hold and where, known before the target runs
generate  the target answers many prompts in continuous batches
answer    what a target wrote to a prompt
answered  the answers of a finished capture, compared with what was written
rows      a batch whose rows are given to the next prompts in place
steps     what forward passes write, copied to the host meanwhile
batch_size  how many rows fit into memory
signal    the target's distribution at a position: exact or compact, in bytes and in use
store     a capture on disk: resumable at any moment
shards    a large capture in parts that several processes make, and their joining
writer    a thread that writes in order
adopt     copies answers that other captures already hold
grouping  batches of similar length
batches   answers with their signal as padded batches for training
"""
