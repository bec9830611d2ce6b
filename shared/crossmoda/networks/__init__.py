"""networks of crossmoda."""
