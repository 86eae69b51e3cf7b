"""Gates: weights of objectives that the prompt chooses."""
