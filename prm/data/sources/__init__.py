"""Where records come from, and how rows are read and written."""
