# The platform root planned without AWS; tests/infra reads the plan of this run, so it stays the only one here.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan
}

# The chart's schema checks the form of this ARN.
override_resource {
  target          = aws_lb_target_group.pods
  override_during = plan
  values          = { arn = "arn:aws:elasticloadbalancing:us-west-2:111122223333:targetgroup/comfyui-pods/0123456789abcdef" }
}

variables {
  region            = "us-west-2"
  api_allowed_cidrs = ["198.51.100.7/32"]
  node_files = {
    program = { key = "node/p", sha256 = sha256("p") }
    service = { key = "node/s", sha256 = sha256("s") }
    timer   = { key = "node/t", sha256 = sha256("t") }
    path    = { key = "node/a", sha256 = sha256("a") }
  }
}

run "defaults" {
  command = plan
}
