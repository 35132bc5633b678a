"""An AWS, a GPU node and a ComfyUI that run inside the user's machine: everything behind `comfyeks local`."""
