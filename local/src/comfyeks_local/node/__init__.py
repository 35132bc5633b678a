"""The stand-in for a GPU node: its boot, systemd, SSM agent and pods."""
