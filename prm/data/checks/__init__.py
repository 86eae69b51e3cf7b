"""What is wrong with records, and what there is to know of them before training."""
