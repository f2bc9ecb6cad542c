"""Data: sources, the on-disk dataset, cleaning, label checks and splits."""
