terraform {
  required_version = ">= 1.11" # S3 state locking without DynamoDB (use_lockfile)

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100" # the newest line that the project can test without an AWS account
    }
  }

  # `comfyeks infra apply` sets bucket, key, region and lock: the bucket's name contains the account number.
  backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}
