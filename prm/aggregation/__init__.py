"""Step scores to one score, objective scores to one reward: pure functions of tensors."""
