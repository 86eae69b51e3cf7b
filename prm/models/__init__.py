"""Backbones over token trees, heads, and the models made of them."""
