"""metrics of crossmoda."""
