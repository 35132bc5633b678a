"""Terraform: run the two roots, read their outputs, and recover from interrupted runs."""
