"""Speculative and plain decoding as one generator of events, and the rules of sampling under it."""
