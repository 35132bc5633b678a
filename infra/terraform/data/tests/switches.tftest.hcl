# Every variable: what it switches, the values that it rejects, and the nearest ones that it accepts.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"
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

run "nothing_expires_by_itself" {
  command = plan

  assert {
    condition     = length(aws_s3_bucket_logging.this) == 0 && alltrue([for days in values(local.expiry_days) : days == null])
    error_message = "No object expires and no request is logged by default."
  }
}

run "inputs_and_outputs_expire" {
  command = plan

  variables {
    inputs_expiry_days  = 1
    outputs_expiry_days = 90
  }

  assert {
    condition = {
      for kind, lifecycle in aws_s3_bucket_lifecycle_configuration.this :
      kind => [for rule in lifecycle.rule : rule.expiration[0].days if rule.id == "expire"]
    } == { models = [], inputs = [1], outputs = [90] }
    error_message = "Inputs and outputs expire after their own days, models never."
  }
}

run "inputs_kept_for_no_day" {
  command = plan

  variables {
    inputs_expiry_days = 0
  }

  expect_failures = [var.inputs_expiry_days]
}

run "outputs_kept_for_half_a_day" {
  command = plan

  variables {
    outputs_expiry_days = 0.5
  }

  expect_failures = [var.outputs_expiry_days]
}

run "access_logs" {
  command = plan

  variables {
    access_logs = true
  }

  assert {
    condition     = length(aws_s3_bucket_logging.this) == 3 && aws_s3_bucket_logging.this["models"].target_bucket == "comfyui-artifacts-111122223333-us-west-2" && aws_s3_bucket_logging.this["models"].target_prefix == "access-logs/models/"
    error_message = "Each bucket's requests are logged below a prefix of its own, where people who write models have no access."
  }
}

run "models_kept_for_a_day" {
  command = plan

  variables {
    models_old_version_days = 1
    stale_upload_days       = 1
    images_kept             = 2
  }
}
