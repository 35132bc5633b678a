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
  s5cmd_path           = "versions.tf" # any file: only its hash goes into the plan
}

run "everything" {
  command = plan
}
