"""Where tokenized units are kept: on the disk, or in memory."""

from prm import moved

__getattr__ = moved.names_of(__name__)
