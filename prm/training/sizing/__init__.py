"""Memory, speed and number of GPUs of a training run, estimated."""
