"""The page of all runs.

page     the page
table    which runs are shown, and in what order
columns  the columns of the table
"""
