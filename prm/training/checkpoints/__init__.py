"""What a run writes to resume from."""
