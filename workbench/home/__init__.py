"""The home page.

page                 the page: your model, best drafts, running jobs, the machine
your_model           one's own model and prompts, measured as they are
outcome              a run that Home has started: progress, then verdict
what_training_gives  what training may give and costs, and its start
"""
