"""Self-training: pseudo-labels of real hrT2 scans, their selection, and rounds of students."""
