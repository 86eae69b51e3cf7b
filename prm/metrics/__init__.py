"""Metrics of step probabilities, exact over ranks, and intervals clustered by problem."""
