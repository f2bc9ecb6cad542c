"""Compression: batch-norm folding, INT8 quantization, structured pruning, and the search that picks under a budget."""
