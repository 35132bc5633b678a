"""comfyeks: run ComfyUI for a team on Amazon EKS."""
