"""What the Runs page is made of: the table of all runs and its columns."""
