"""The page of all runs.

page       the page: filters, rows, buttons
table      which runs are shown, and in what order
columns    the columns of the table
rows       the table on the page, in pages and in groups that fold
selection  what can be done with the selected runs
views      saved views: a file in the home
view_bar   saved views on the page
refresh    drawn again when a run has changed
removed    removed runs, to be restored
"""
