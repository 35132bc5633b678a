"""What the platform costs: prices as data, and an estimate as lines that can be checked by hand."""
