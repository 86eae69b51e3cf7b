"""The reward at RL time: one callable, and views of it for each trainer."""
