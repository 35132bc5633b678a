# The data root's buckets and registry, and the artifacts bucket of `comfyeks infra apply`: looked up by name, so that this root needs no other root's state, and so that a
# missing one stops the plan and not a node at boot.

data "aws_s3_bucket" "this" {
  for_each = toset(["models", "inputs", "outputs", "artifacts"])

  bucket = "${local.name}-${each.key}-${local.account_id}-${var.region}"
}

data "aws_ecr_repository" "images" {
  name = "${local.name}-images"
}

locals {
  # ARNs are put together from names, here and in other files: names are known to a plan, which then shows every policy in full.
  bucket_arns = { for kind, bucket in data.aws_s3_bucket.this : kind => "arn:${local.partition}:s3:::${bucket.bucket}" }
}
