"""What is wrong with a deployment, and how to put it right. Every check asks; none changes anything."""
