"""Studies: grids of runs that share captures. A study has no state besides its recipe and the run folders.

spec      the recipe of a study
cells     from a study to its cells: one recipe each
sweep     a sweep: several runs from one recipe
grid      products of axes
inputs    was a run made from what its recipe names today?
state     the state of each cell
start     start what is missing, and wait
costs     what missing cells will take
known     the studies of a home
overview  a row per study
results   measurements per cell, and the modes compared
"""
