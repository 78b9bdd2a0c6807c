"""Distillation: losses, the trainer, and the modes that decide where batches come from.

losses      the losses, one plain function each
fused       their values and gradients in closed form, faster
moments     forward KL without the target's logits
chunked     losses over many positions without a tensor of all logits
forward     the draft's forward pass over a batch
trainer     optimiser steps, evaluation, best draft, resume
modes/      offline, online, on-policy
source      what a mode is: a source of batches
schedule    which answers go into which step, at what learning rate
reading     reading the signal of a batch
selection   token selection on top of any mode
stream      the log of an online stream
checkpoint  checkpoints on disk
outcome     what a training has done so far
processes   the processes of one training, and what they send each other
launching   becoming one of them
dealing     a step's batches dealt to the processes
sharding    a draft in pieces on several processes (FSDP2)
"""
