"""What the Learn page is made of: its words, and the losses read from the registry."""
