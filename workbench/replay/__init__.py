"""The Replay page: stepping through a stored trace."""
