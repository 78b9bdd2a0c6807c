"""What the Replay page is made of."""
