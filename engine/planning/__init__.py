"""Before a start: checks, cost estimates, and the state of the machine.

checks/         checks of a recipe
outlines        models on this machine without their weights
fitness         can target and draft be decoded and cut as asked? from shapes alone
recognise       what a name of a model stands for
own_prompts     a user's prompts: kept in the home, and split
prompt_check    a report on prompt files
estimate        memory, disk and time of a run
earlier_runs    how fast earlier runs were here
probe           how fast target and draft compute here, in five seconds
clock           what the parts of a run that begins are expected to take
cards           the graphics cards of this machine, and what fits them
doctor          is this machine ready?
bounded         work in a process with limits of time and memory
bounded_checks  checks and estimates in such a process
"""
