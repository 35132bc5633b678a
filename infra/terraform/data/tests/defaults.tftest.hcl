# The data root planned without AWS; tests/infra reads the plan of this run, so it stays the only one here.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"
}

variables {
  region = "us-west-2"
}

run "defaults" {
  command = plan
}
