"""The command line: a file per group of commands, each listed in `app`.

app        the `draftbench` command: its list of commands, errors and exit statuses
options    arguments and options that several commands share
run        run, capture, train, measure: the commands that make a run
measure_only  measure-only: a model as it is
runs       runs (list, samples, cancel, archive, remove, restore), show, compare, index
slices     where a draft fails, and prompts to train on for it
decode     decode in the terminal, live in the browser
served     served (predict): a draft on a server
served_figures  served (import, probe, show, remove): what servers reported
parity     served (parity, setup): a draft on a real server that is started for it
export     a draft for a server, and its preflight
study      study (run, list, show): grids of runs
findings   the paper's claims, tested on your runs
data       data (check, fetch, list, show, import, magpie, overlap): prompts
tune       domain targets from a base model
machine    doctor, fetch, paths
reference  losses, schema: what a recipe can name
keys       allow-key, and the question before a key is sent
text/      what the commands print
"""
