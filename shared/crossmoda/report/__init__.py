"""report of crossmoda."""
