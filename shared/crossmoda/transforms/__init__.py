"""transforms of crossmoda."""
