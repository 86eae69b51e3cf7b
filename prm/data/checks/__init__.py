"""What is wrong with records, and what there is to know of them before training."""

from prm import moved

__getattr__ = moved.names_of(__name__)
