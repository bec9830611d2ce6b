"""losses of crossmoda."""
