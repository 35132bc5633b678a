resource "aws_kms_key" "secrets" {
  #checkov:skip=CKV2_AWS_64:the default policy lets IAM of the account decide, and EKS uses the key by a grant

  description             = "Kubernetes secrets of the EKS cluster ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 7
}

resource "aws_kms_alias" "secrets" {
  name          = "alias/${local.name}-secrets"
  target_key_id = aws_kms_key.secrets.key_id
}

resource "aws_iam_role" "cluster" {
  name = "${local.iam_prefix}-cluster"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "eks.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEKSClusterPolicy"
}

# The control plane delivers its last logs minutes after the cluster is deleted. It would create the log group again, and the next
# apply would fail because the group exists but is not in the state. Writing to the group that Terraform creates stays allowed.
resource "aws_iam_role_policy" "cluster_makes_no_log_group" {
  name = "no-log-group"
  role = aws_iam_role.cluster.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "MakeNoLogGroup"
      Effect   = "Deny"
      Action   = "logs:CreateLogGroup"
      Resource = "*"
    }]
  })
}

# EKS writes to a group of this name. Created before the cluster: otherwise EKS creates it, without an expiry.
resource "aws_cloudwatch_log_group" "cluster" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every group with a key of its own
  #checkov:skip=CKV_AWS_338:how long logs are kept, and paid for, is log_retention_days

  name              = "/aws/eks/${local.name}/cluster"
  retention_in_days = var.log_retention_days

  depends_on = [aws_iam_role_policy.cluster_makes_no_log_group] # so that the group is destroyed before the policy
}

resource "aws_eks_cluster" "this" {
  #checkov:skip=CKV_AWS_38:only api_allowed_cidrs can connect, and 0.0.0.0/0 is rejected there
  #checkov:skip=CKV_AWS_39:operators work from outside the VPC; api_public_access = false closes it

  name     = local.name
  version  = local.versions.kubernetes
  role_arn = aws_iam_role.cluster.arn

  # The add-ons in eks_addons.tf replace the unmanaged ones that EKS would otherwise install.
  bootstrap_self_managed_addons = false
  enabled_cluster_log_types     = ["api", "audit", "authenticator", "controllerManager", "scheduler"]

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true
  }

  vpc_config {
    subnet_ids              = local.private_subnet_ids
    endpoint_private_access = true
    endpoint_public_access  = var.api_public_access
    public_access_cidrs     = var.api_public_access ? var.api_allowed_cidrs : null
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = aws_kms_key.secrets.arn
    }
  }

  # Extended support costs six times as much and is the default; with standard support EKS upgrades the cluster instead.
  upgrade_policy {
    support_type = "STANDARD"
  }

  # Sometimes takes just over 15 minutes, after which the provider gives up by default.
  timeouts {
    delete = "30m"
  }

  depends_on = [
    aws_cloudwatch_log_group.cluster,
    aws_iam_role_policy_attachment.cluster,
  ]
}

locals {
  node_security_group_id = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

# EKS creates this group and attaches it to the nodes of the managed group; Karpenter finds it by the tag and does the same.
# Exactly one group may have the tag: with two, pods get both and the load balancer controller cannot choose one.
resource "aws_ec2_tag" "node_discovery" {
  resource_id = local.node_security_group_id
  key         = "karpenter.sh/discovery"
  value       = local.name
}

resource "aws_eks_access_entry" "admin" {
  for_each = toset(var.cluster_admin_arns)

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = each.value
}

resource "aws_eks_access_policy_association" "admin" {
  for_each = toset(var.cluster_admin_arns)

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = aws_eks_access_entry.admin[each.key].principal_arn
  policy_arn    = "arn:${local.partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"

  access_scope {
    type = "cluster"
  }
}
