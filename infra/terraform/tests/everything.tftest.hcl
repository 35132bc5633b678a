# The platform root with every switch on and the longest names that it takes: tests/infra reads the plan of this run. A new
# variable is set here, or tests/infra/test_inventory.py says that it is not.

mock_provider "aws" {
  override_during = plan

  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_availability_zones" {
    defaults = { names = ["ap-southeast-1a", "ap-southeast-1b", "ap-southeast-1c"] }
  }
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
  values          = { arn = "arn:aws:elasticfilesystem:ap-southeast-1:111122223333:file-system/fs-00000000" }
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
  log_retention_days   = 365
  comfyui_namespace    = "comfyui"
  comfyui_release      = "comfyui"
  mount_outputs        = true
  nat                  = "per_az"
  private_subnet_ids   = []
  interface_endpoints  = true
  image_mirror         = "111122223333.dkr.ecr.ap-southeast-1.amazonaws.com/mirror"
  efs                  = true
  queue_kms_key        = true
  alarm_email          = "ops@example.com"
  monthly_budget_usd   = 500
  node_files = {
    program = { key = "node/p", sha256 = sha256("p") }
    service = { key = "node/s", sha256 = sha256("s") }
    timer   = { key = "node/t", sha256 = sha256("t") }
    path    = { key = "node/a", sha256 = sha256("a") }
    s5cmd   = { key = "node/5", sha256 = sha256("5") }
  }
}

run "everything" {
  command = plan
}
