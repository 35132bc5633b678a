"""What the platform costs: prices as data, an estimate as lines that can be checked by hand."""
