"""Checks that find what is wrong with a deployment, and how to fix it. None changes anything."""
