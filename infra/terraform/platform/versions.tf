terraform {
  required_version = ">= 1.11" # S3 state locking without DynamoDB (use_lockfile)

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100" # the newest line that the project can test without an AWS account
    }
  }

  # Bucket, key, region and lock come from `comfyeks infra apply`: they hold the account number.
  backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  name       = var.project == null ? "comfyui" : "comfyui-${var.project}"
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  tags       = merge(var.tags, { Application = "comfyui-on-eks", Deployment = local.name })
  versions   = yamldecode(file("${path.module}/../../../versions.yaml"))

  # IAM names are global to the account: the region keeps one project's deployments in two regions apart.
  iam_prefix = "${local.name}-${var.region}"

  # The data root and `comfyeks` made these; names are the contract, so that this root needs no other root's state.
  bucket_arns = {
    for kind in ["models", "inputs", "outputs", "artifacts"] :
    kind => "arn:${local.partition}:s3:::${local.name}-${kind}-${local.account_id}-${var.region}"
  }
}
