"""From a file to packed token trees: formats, readers, checks, tokenization, packing."""
