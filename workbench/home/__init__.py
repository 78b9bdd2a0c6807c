"""The home page: best drafts, running jobs, first steps, the machine."""
