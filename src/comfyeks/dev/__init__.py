"""What works on this checkout and not on a deployment: generators and checks. Needs the developers' dependencies."""
