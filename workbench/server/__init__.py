"""The server around the pages: the guard, allowed routes, and the start."""
