# The platform root with every switch on and the longest names that it accepts: tests/infra reads the plan of this run. A new
# variable is set here, or tests/infra/test_inventory.py says that it is not.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"

  mock_data "aws_availability_zones" {
    defaults = { names = ["ap-southeast-1a", "ap-southeast-1b", "ap-southeast-1c"] }
  }
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan
}

# Policies name them: known here, so that tests can read the policies.
override_resource {
  target          = aws_kms_key.messages
  override_during = plan
  values          = { arn = "arn:aws:kms:ap-southeast-1:111122223333:key/00000000-0000-0000-0000-000000000000" }
}

override_resource {
  target          = aws_efs_file_system.models
  override_during = plan
  values          = { id = "fs-00000000", arn = "arn:aws:elasticfilesystem:ap-southeast-1:111122223333:file-system/fs-00000000" }
}

# The chart's schema checks the form of this ARN.
override_resource {
  target          = aws_lb_target_group.pods
  override_during = plan
  values          = { arn = "arn:aws:elasticloadbalancing:ap-southeast-1:111122223333:targetgroup/comfyui-sixteen-char-abc-pods/0123456789abcdef" }
}

variables {
  project              = "sixteen-char-abc"
  region               = "ap-southeast-1"
  tags                 = { CostCentre = "studio" }
  vpc_cidr             = "10.20.0.0/16"
  api_public_access    = true
  api_allowed_cidrs    = ["198.51.100.7/32"]
  cluster_admin_arns   = ["arn:aws:iam::111122223333:role/platform-admin"]
  system_node_types    = ["t3a.xlarge", "t3.xlarge"]
  system_node_count    = 2
  system_node_disk_gib = 50
  log_retention_days   = 30
  comfyui_namespace    = "comfyui"
  comfyui_release      = "comfyui"
  mount_outputs        = true
  nat                  = "per_az"
  zones                = ["ap-southeast-1c", "ap-southeast-1a", "ap-southeast-1b"]
  private_subnet_ids   = []
  interface_endpoints  = true
  image_mirror         = "111122223333.dkr.ecr.ap-southeast-1.amazonaws.com/mirror"
  efs                  = true
  queue_kms_key        = true
  alarm_email          = "ops@example.com"
  monthly_budget_usd   = 500

  load_balancer                       = true
  load_balancer_allowed_cidrs         = ["10.20.0.0/16", "10.30.0.0/16"]
  load_balancer_log_bucket            = "studio-logs"
  domain_name                         = "comfyui.example.com"
  certificate_arn                     = "arn:aws:acm:ap-southeast-1:111122223333:certificate/1"
  sign_in                             = "cognito"
  cognito_domain_prefix               = "studio-comfyui"
  cognito_mfa                         = true
  cloudfront                          = true
  cloudfront_certificate_arn          = "arn:aws:acm:us-east-1:111122223333:certificate/1"
  cloudfront_allowed_cidrs            = ["198.51.100.0/24", "2001:db8::/32"]
  cloudfront_rate_limit               = 5000
  cloudfront_managed_rules            = true
  allow_unauthenticated_public_access = true
  privatelink_allowed_principals      = ["arn:aws:iam::444455556666:root"]

  node_files = {
    program = { key = "node/p", sha256 = sha256("p") }
    service = { key = "node/s", sha256 = sha256("s") }
    timer   = { key = "node/t", sha256 = sha256("t") }
    path    = { key = "node/a", sha256 = sha256("a") }
  }
}

run "everything" {
  command = plan
}
