"""The container image: its custom nodes, and its build."""
