"""What a model said: scores as values and as files; nothing here needs a model."""
