"""One command up, one command down: an ordered plan of steps, each of which can say what is left of it."""
