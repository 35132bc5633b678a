"""The AWS side of a deployment as one thing: Terraform's roots, the function, and the values for the charts."""
