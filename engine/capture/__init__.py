"""Captures: the target's answers to a prompt set with its distribution at every token, kept on disk."""
