"""Where tokenized units are kept: on the disk, or in memory."""
