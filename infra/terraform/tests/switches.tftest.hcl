# Every variable: what it switches, the values it refuses, and the nearest that it takes.

mock_provider "aws" {
  override_during = plan

  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_availability_zones" {
    defaults = { names = ["us-west-2a", "us-west-2b", "us-west-2c", "us-west-2d"] }
  }
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan
}

variables {
  region            = "us-west-2"
  api_allowed_cidrs = ["198.51.100.7/32"]
  s5cmd_path        = "versions.tf" # any file: only its hash goes into the plan
}

run "few_zones" {
  command = plan

  override_data {
    target = data.aws_availability_zones.available
    values = { names = ["us-west-1a", "us-west-1b"] }
  }

  assert {
    condition     = length(aws_subnet.private) == 2 && length(aws_subnet.public) == 2
    error_message = "A region with two zones gets two subnets of each kind."
  }
}

run "zones_where_eks_makes_no_control_plane" {
  command = plan

  assert {
    condition     = data.aws_availability_zones.available.exclude_zone_ids == toset(["use1-az3", "usw1-az2", "cac1-az3"])
    error_message = "No subnet is made in a zone that EKS refuses."
  }
}

run "outputs_can_be_mounted_but_not_deleted" {
  command = plan

  variables {
    mount_outputs = true
  }

  assert {
    condition = alltrue([
      for statement in local.pod_policies["s3-csi-driver"] :
      !contains(statement.Action, "s3:DeleteObject") if strcontains(join(" ", statement.Resource), "-outputs-")
    ])
    error_message = "Outputs are not versioned: no pod may delete one."
  }

  assert {
    condition     = contains(flatten(local.pod_policies["s3-csi-driver"][*].Resource), "${local.bucket_arns.outputs}/*") && contains(local.pod_policies["s3-csi-driver"][0].Resource, local.bucket_arns.outputs)
    error_message = "A mounted outputs bucket can be listed, read and added to."
  }
}

run "other_partition" {
  command = plan

  variables {
    region = "cn-north-1"
  }

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn" }
  }

  assert {
    condition     = !strcontains(jsonencode([local.karpenter_statements, local.pod_policies, local.node_statements]), "arn:aws:")
    error_message = "No ARN names the partition aws in text."
  }
}

run "project_in_every_name" {
  command = plan

  variables {
    project = "film-2"
  }

  assert {
    condition     = aws_eks_cluster.this.name == "comfyui-film-2" && local.sync_function_name == "comfyui-models-film-2-sync"
    error_message = "The project is part of the cluster's and the function's name."
  }
}

run "project_may_have_16_characters" {
  command = plan

  variables {
    project = "abcdefgh-1234567"
    region  = "ap-southeast-2"
  }

  assert {
    condition     = alltrue([for role in aws_iam_role.pod : length(role.name) <= 64])
    error_message = "IAM takes role names of at most 64 characters."
  }
}

run "project_of_17_characters" {
  command = plan

  variables {
    project = "abcdefgh-12345678"
  }

  expect_failures = [var.project]
}

run "project_with_a_hyphen_at_the_end" {
  command = plan

  variables {
    project = "film-"
  }

  expect_failures = [var.project]
}

run "project_named_default" {
  command = plan

  variables {
    project = "default"
  }

  expect_failures = [var.project]
}

run "region_of_the_european_sovereign_cloud" {
  command = plan

  variables {
    region = "eusc-de-east-1"
  }
}

run "region_that_is_a_zone" {
  command = plan

  variables {
    region = "us-west-2a"
  }

  expect_failures = [var.region]
}

run "api_open_to_nobody" {
  command = plan

  variables {
    api_allowed_cidrs = []
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_everybody" {
  command = plan

  variables {
    api_allowed_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_everybody_in_two_halves" {
  command = plan

  variables {
    api_allowed_cidrs = ["0.0.0.0/1", "128.0.0.0/1"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_range_without_length" {
  command = plan

  variables {
    api_allowed_cidrs = ["198.51.100.7"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_a_company" {
  command = plan

  variables {
    api_allowed_cidrs = ["10.0.0.0/8"]
  }
}

run "api_private" {
  command = plan

  variables {
    api_public_access = false
    api_allowed_cidrs = []
  }

  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "A private API is reachable from inside the VPC only."
  }
}

run "vpc_too_large" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/15"
  }

  expect_failures = [var.vpc_cidr]
}

run "vpc_too_small" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/21"
  }

  expect_failures = [var.vpc_cidr]
}

run "smallest_vpc" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/20"
  }

  assert {
    condition     = [for subnet in aws_subnet.public : split("/", subnet.cidr_block)[1]] == ["26", "26", "26"]
    error_message = "A load balancer wants subnets of at least /27."
  }
}

run "admin_that_is_a_session" {
  command = plan

  variables {
    cluster_admin_arns = ["arn:aws:sts::111122223333:assumed-role/admin/me"]
  }

  expect_failures = [var.cluster_admin_arns]
}

run "named_admin" {
  command = plan

  variables {
    cluster_admin_arns = ["arn:aws:iam::111122223333:role/admin"]
  }

  assert {
    condition     = length(aws_eks_access_policy_association.admin) == 1
    error_message = "A named admin gets an access entry and the admin policy."
  }
}

run "no_system_node_type" {
  command = plan

  variables {
    system_node_types = []
  }

  expect_failures = [var.system_node_types]
}

run "one_system_node" {
  command = plan

  variables {
    system_node_count = 1
  }

  expect_failures = [var.system_node_count]
}

run "system_disk_too_small" {
  command = plan

  variables {
    system_node_disk_gib = 19
  }

  expect_failures = [var.system_node_disk_gib]
}

run "log_retention_that_cloudwatch_does_not_know" {
  command = plan

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "namespace_with_a_capital" {
  command = plan

  variables {
    comfyui_namespace = "ComfyUI"
  }

  expect_failures = [var.comfyui_namespace]
}

run "release_with_54_characters" {
  command = plan

  variables {
    comfyui_release = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz12"
  }

  expect_failures = [var.comfyui_release]
}
