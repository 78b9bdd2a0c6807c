"""Damaged and hostile inputs: a module per kind, each with `cases()`. `benchmarks/hostile.py` tries them."""
