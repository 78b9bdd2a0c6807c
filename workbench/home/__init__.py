"""The home page.

page  the page: best drafts, running jobs, first steps, the machine
"""
