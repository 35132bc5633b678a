# Every variable: what it switches, the values it refuses, and the nearest that it takes.

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

run "longest_bucket_name" {
  command = plan

  variables {
    project = "abcdefgh-1234567"
    region  = "ap-southeast-2"
  }

  assert {
    condition     = alltrue([for name in values(local.buckets) : length(name) <= 63])
    error_message = "S3 takes bucket names of at most 63 characters."
  }
}

run "project_of_17_characters" {
  command = plan

  variables {
    project = "abcdefgh-12345678"
  }

  expect_failures = [var.project]
}

run "region_that_is_a_zone" {
  command = plan

  variables {
    region = "us-west-2a"
  }

  expect_failures = [var.region]
}

run "old_models_kept_for_no_day" {
  command = plan

  variables {
    models_old_version_days = 0
  }

  expect_failures = [var.models_old_version_days]
}

run "stale_uploads_kept_for_half_a_day" {
  command = plan

  variables {
    stale_upload_days = 0.5
  }

  expect_failures = [var.stale_upload_days]
}

run "one_image_kept" {
  command = plan

  variables {
    images_kept = 1
  }

  expect_failures = [var.images_kept]
}
