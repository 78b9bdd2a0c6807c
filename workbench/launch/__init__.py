"""What the Launch page is made of: the form from the schema, and where a run starts from."""
