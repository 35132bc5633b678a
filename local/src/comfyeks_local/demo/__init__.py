"""The main job on an AWS inside this machine, with the project's real parts, as a timeline."""
