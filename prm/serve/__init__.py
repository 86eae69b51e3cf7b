"""`prm serve`: scores over HTTP, in the native dialect and in those of other systems."""
