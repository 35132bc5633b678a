# What each variable switches, and which answers of AWS are rejected. The values that variables reject are in variables.tftest.hcl.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan
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

# What is off, or at its default, if no variable is set.
run "defaults_of_the_switches" {
  command = plan

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.nat) == 3
    error_message = "One gateway serves the private subnets of all zones."
  }

  assert {
    condition     = length(aws_vpc_endpoint.interface) == 0 && length(aws_security_group.endpoints) == 0 && length(aws_vpc_endpoint.s3) == 1
    error_message = "S3 has an endpoint always, the others only on request."
  }

  assert {
    condition     = length(aws_efs_file_system.models) + length(aws_efs_mount_target.models) + length(aws_security_group.efs) == 0 && !contains(keys(aws_eks_addon.on_nodes), "aws-efs-csi-driver")
    error_message = "EFS is off by default."
  }

  assert {
    condition     = aws_sqs_queue.model_events.sqs_managed_sse_enabled && local.queue_kms_key_arn == null && local.read_encrypted_queues == []
    error_message = "By default queues are encrypted by SQS itself, and no role gets permission for a key."
  }

  assert {
    condition     = length(aws_sns_topic_subscription.email) == 0 && length(aws_cloudwatch_metric_alarm.this) == 3
    error_message = "Alarms are there without an address."
  }

  assert {
    condition     = length(aws_budgets_budget.monthly) == 0
    error_message = "There is no budget by default."
  }

  assert {
    condition     = data.aws_availability_zones.available.exclude_zone_ids == toset(["use1-az3", "usw1-az2", "cac1-az3"])
    error_message = "No subnet is created in a zone that EKS rejects."
  }
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

run "smallest_vpc" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/20"
  }

  assert {
    condition     = [for subnet in aws_subnet.public : split("/", subnet.cidr_block)[1]] == ["26", "26", "26"]
    error_message = "A load balancer needs subnets of at least /27."
  }
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

run "a_nat_gateway_per_zone" {
  command = plan

  variables {
    nat = "per_az"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_eip.nat) == 3
    error_message = "The loss of a zone must not cost the others their route to the internet."
  }
}

run "no_route_to_the_internet" {
  command = plan

  variables {
    nat                 = "none"
    interface_endpoints = true
    image_mirror        = "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror"
  }

  assert {
    condition     = length(aws_nat_gateway.this) + length(aws_eip.nat) + length(aws_internet_gateway.this) + length(aws_subnet.public) + length(aws_route.nat) == 0
    error_message = "With nat = none no route leaves the VPC."
  }

  assert {
    condition     = output.helm_values.addons.karpenter.settings.isolatedVPC && output.helm_values.karpenter_gpu.nodeInstanceProfile == "comfyui-us-west-2-gpu-node" && !can(output.helm_values.karpenter_gpu.nodeRole)
    error_message = "Karpenter queries no prices and creates no instance profile: both APIs are outside the VPC."
  }

  assert {
    condition = alltrue([
      startswith(output.helm_values.addons.karpenter.controller.image.repository, "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror/"),
      startswith(output.helm_values.addons.aws-load-balancer-controller.image.repository, "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror/"),
      startswith(output.helm_values.addons.nvidia-device-plugin.image.repository, "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror/"),
    ])
    error_message = "Every add-on's image comes from the mirror."
  }
}

run "mirror_with_a_port" {
  command = plan

  variables {
    image_mirror = "mirror.example.com:5000"
  }

  assert {
    condition     = output.helm_values.addons.karpenter.controller.image.repository == "mirror.example.com:5000/karpenter/controller"
    error_message = "A mirror keeps the images' own names."
  }
}

run "interface_endpoints" {
  command = plan

  variables {
    interface_endpoints = true
    efs                 = true
  }

  assert {
    condition     = length(aws_vpc_endpoint.interface) == 12 && length(aws_security_group.endpoints) == 1
    error_message = "Eleven services, and EFS where it is used, share one security group."
  }
}

run "existing_vpc" {
  command = plan

  variables {
    private_subnet_ids = ["subnet-0aaa", "subnet-0bbb"]
    efs                = true
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0aaa"]
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2a", availability_zone_id = "usw2-az1" }
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0bbb"]
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2b", availability_zone_id = "usw2-az2" }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { id = "vpc-1", enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [{ cidr_block = "10.1.0.0/16", association_id = "a", state = "associated" }] }
  }

  assert {
    condition     = length(aws_vpc.this) + length(aws_subnet.private) + length(aws_nat_gateway.this) + length(aws_vpc_endpoint.s3) + length(aws_route_table.private) == 0
    error_message = "Nothing is created or changed in an existing network."
  }

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].subnet_ids == toset(["subnet-0aaa", "subnet-0bbb"]) && output.helm_values.karpenter_gpu.cluster.subnetIds == tolist(["subnet-0aaa", "subnet-0bbb"])
    error_message = "Cluster and nodes use the given subnets."
  }

  assert {
    condition     = keys(aws_efs_mount_target.models) == ["us-west-2a", "us-west-2b"]
    error_message = "One mount target per zone."
  }
}

run "existing_subnets_of_one_zone" {
  command = plan

  variables {
    private_subnet_ids = ["subnet-0aaa", "subnet-0bbb"]
  }

  override_data {
    target = data.aws_subnet.existing
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2a", availability_zone_id = "usw2-az1" }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { enable_dns_support = true, enable_dns_hostnames = true }
  }

  expect_failures = [data.aws_vpc.existing]
}

run "existing_subnets_of_two_vpcs" {
  command = plan

  variables {
    private_subnet_ids = ["subnet-0aaa", "subnet-0bbb"]
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0aaa"]
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2a", availability_zone_id = "usw2-az1" }
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0bbb"]
    values = { vpc_id = "vpc-2", availability_zone = "us-west-2b", availability_zone_id = "usw2-az2" }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { enable_dns_support = true, enable_dns_hostnames = true }
  }

  expect_failures = [data.aws_vpc.existing]
}

run "existing_vpc_without_dns_names" {
  command = plan

  variables {
    private_subnet_ids = ["subnet-0aaa", "subnet-0bbb"]
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0aaa"]
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2a", availability_zone_id = "usw2-az1" }
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0bbb"]
    values = { vpc_id = "vpc-1", availability_zone = "us-west-2b", availability_zone_id = "usw2-az2" }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { id = "vpc-1", enable_dns_support = true, enable_dns_hostnames = false }
  }

  expect_failures = [data.aws_vpc.existing]
}

run "existing_subnet_where_eks_has_no_control_planes" {
  command = plan

  variables {
    region             = "us-east-1"
    private_subnet_ids = ["subnet-0aaa", "subnet-0bbb"]
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0aaa"]
    values = { vpc_id = "vpc-1", availability_zone = "us-east-1a", availability_zone_id = "use1-az1" }
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0bbb"]
    values = { vpc_id = "vpc-1", availability_zone = "us-east-1e", availability_zone_id = "use1-az3" }
  }

  override_data {
    target = data.aws_vpc.existing
    values = { id = "vpc-1", enable_dns_support = true, enable_dns_hostnames = true }
  }

  expect_failures = [data.aws_subnet.existing]
}

run "efs" {
  command = plan

  variables {
    efs = true
  }

  assert {
    condition     = aws_efs_file_system.models[0].encrypted && length(aws_efs_mount_target.models) == 3 && contains(keys(aws_eks_addon.on_nodes), "aws-efs-csi-driver") && aws_eks_pod_identity_association.this["efs-csi-driver"].service_account == "efs-csi-controller-sa"
    error_message = "EFS is encrypted, reachable in every zone, and its driver has an identity."
  }
}

run "queues_with_a_kms_key" {
  command = plan

  variables {
    queue_kms_key = true
  }

  override_resource {
    target          = aws_kms_key.messages
    override_during = plan
    values          = { arn = "arn:aws:kms:us-west-2:111122223333:key/messages" }
  }

  assert {
    condition     = aws_sqs_queue.model_events.kms_master_key_id == aws_kms_key.messages.arn && aws_sqs_queue.model_events_dlq.kms_master_key_id == aws_kms_key.messages.arn && aws_sqs_queue.interruption.kms_master_key_id == aws_kms_key.messages.arn
    error_message = "Each queue is encrypted with the deployment's key."
  }

  assert {
    condition     = local.read_encrypted_queues[0].Resource == aws_kms_key.messages.arn && strcontains(aws_iam_role_policy.sync.policy, "UseQueueKey") && strcontains(aws_iam_role_policy.pod["karpenter"].policy, "UseQueueKey")
    error_message = "Every role that reads a queue may use its key."
  }
}

run "alarm_email" {
  command = plan

  variables {
    alarm_email = "ops@example.com"
  }

  assert {
    condition     = aws_sns_topic_subscription.email[0].endpoint == "ops@example.com" && aws_sns_topic_subscription.email[0].protocol == "email"
    error_message = "The address is subscribed."
  }
}

run "budget" {
  command = plan

  variables {
    monthly_budget_usd = 1
  }

  assert {
    condition     = aws_budgets_budget.monthly[0].limit_amount == "1"
    error_message = "The budget has the given amount."
  }
}

run "chosen_zones" {
  command = plan

  variables {
    zones = ["us-west-2d", "us-west-2b"]
  }

  assert {
    condition     = toset(keys(aws_subnet.private)) == toset(["us-west-2b", "us-west-2d"]) && aws_subnet.private["us-west-2d"].cidr_block == "10.0.0.0/18"
    error_message = "Subnets are in the chosen zones, in their order."
  }
}
