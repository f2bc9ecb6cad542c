"""Side-by-side measurements: what labline does, against what one would do without it, in one run."""
