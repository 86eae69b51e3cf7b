"""Training losses, one family per file: pure functions and thin classes over them."""
