"""Commands for this checkout, not for a deployment: generators and checks. They need the developers' dependencies."""
