"""Terraform: run the two roots, read their outputs, and survive what interrupts them."""
