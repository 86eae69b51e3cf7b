"""What a text says before it is tokens: its steps, a completion, a policy's own text, an answer."""
