# What the data root and the state bootstrap left behind. Looked up, so that a missing one stops the plan and not a node at boot.

data "aws_s3_bucket" "this" {
  for_each = toset(["models", "inputs", "outputs", "artifacts"])

  bucket = "${local.name}-${each.key}-${local.account_id}-${var.region}"
}

data "aws_ecr_repository" "images" {
  name = "${local.name}-images"
}
