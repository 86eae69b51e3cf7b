"""What continues a text: a local model, or an OpenAI-compatible endpoint."""
