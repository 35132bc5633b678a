# The data root planned without AWS; tests/infra reads the plan of this run, so it stays the only one here.

mock_provider "aws" {
  override_during = plan

  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
}

variables {
  region = "us-west-2"
}

run "defaults" {
  command = plan
}
