"""The Runs page: the table of all runs."""
