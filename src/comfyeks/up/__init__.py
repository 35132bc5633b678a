"""`comfyeks up` and `comfyeks down`: an ordered plan of steps, each of which can say what is pending."""
