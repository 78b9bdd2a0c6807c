"""Packs: prompt sets made of published packages, which the user's own pip fetches; nothing of them is shipped.

`catalogue` pins each package and names its reader (`bfcl`, `llamafactory`, `pyserini`, `evals`,
`jionlp`); `filters` leaves out what is no use, with counts; `split` decides which side a record
falls on; `build` writes a pack's folder; `sets` joins the packs that are there into the training
and held-out sets that a recipe names `pack:<domain>/<scenario>`; `leaks` looks for held-out
queries in training sets.
"""
