"""The Home page: best drafts, running jobs, first steps, and checks of the machine."""
