"""data of crossmoda."""
