"""Data that are generated, with labels known exactly."""
