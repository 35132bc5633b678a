"""Stand-ins of a GPU node: its boot, systemd, SSM agent and pods."""
