"""Token trees: what a model reads, from text to packed tokens."""
