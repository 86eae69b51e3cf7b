"""Search at inference: a generator proposes, a reward model chooses."""
