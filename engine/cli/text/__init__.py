"""What the commands print: a file per kind of report.

console   what all print with: JSON, tables, coloured tokens, errors
plan      a recipe's checks and cost, before a run
summary   a run's measurement
following  a run on a cluster, while it is worked on
listing   the list of runs
runs      a run, comparisons, captures, exports
expected  what to expect of a server, and step times
served_figures  served measurements with their verdicts
slices    where a draft fails, and focused training sets
study     studies
findings  findings, also as Markdown
data      prompt files, packs, imports
magpie    synthetic prompts
tune      domain targets
machine   the doctor's checks
parity    a draft on a real server
"""
