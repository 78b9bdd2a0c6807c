"""What the Findings page is made of."""
