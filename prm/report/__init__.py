"""What people read: reports as JSON, Markdown, plots and terminal drawings."""
