data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  name       = var.project == null ? "comfyui" : "comfyui-${var.project}"
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  tags       = merge(var.tags, { Application = "comfyui-on-eks", Deployment = local.name })
  versions   = yamldecode(file("${path.module}/../../../versions.yaml"))

  # IAM names are global to the account: the region distinguishes deployments of one project in two regions.
  iam_prefix = "${local.name}-${var.region}"
}
