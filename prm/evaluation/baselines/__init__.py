"""Trivial baselines that a model has to beat."""
