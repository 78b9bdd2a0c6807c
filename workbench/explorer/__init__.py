"""What the page Explorer is made of.

page        the page
runs        the runs that are shown, and the figures that are set against each other
colouring   the colour and symbol of each run by a third figure
scatter     two figures of every run, with the Pareto line
selection   runs that were selected in the scatter
parallel    parallel coordinates
settings    how much each setting matters
curves      learning curves of many runs
"""
