"""Hidden states of a frozen backbone, computed once."""
