"""Many runs at once: what can be set against what, the best of them, and which settings matter. Pure functions.

figures     every setting and figure of a run: its name for people, and which direction is better
alike       which runs were measured alike, and what differs where they were not
pareto      the runs that no other beats in every figure
importance  how much of the differences between runs each setting explains
"""
