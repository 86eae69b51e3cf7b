"""Evaluation of scored records: benchmark protocols, intervals and the baselines beside them."""
