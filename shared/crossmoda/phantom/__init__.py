"""phantom of crossmoda."""
