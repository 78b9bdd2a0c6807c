"""Damaged and hostile inputs, a module a kind; each has `cases()`. `benchmarks/hostile.py` tries them."""
