"""What the Compare page is made of: the comparison, its figures and tables, the report."""
