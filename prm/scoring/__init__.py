"""Text in, scores out."""
