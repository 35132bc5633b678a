# EFS, for models that do not fit on the instance store. Off by default: it is slower and more expensive than a disk filled from S3.

locals {
  # EFS allows one mount target per zone.
  efs_subnets = !var.efs ? {} : local.own_vpc ? {
    for zone, subnet in aws_subnet.private : zone => subnet.id
    } : {
    for zone in distinct(values(data.aws_subnet.existing)[*].availability_zone) :
    zone => [for id in var.private_subnet_ids : id if data.aws_subnet.existing[id].availability_zone == zone][0]
  }
}

resource "aws_efs_file_system" "models" {
  #checkov:skip=CKV_AWS_184:encrypted with the key that AWS manages for EFS; the models are copies of what is in the bucket

  count = var.efs ? 1 : 0

  creation_token  = "${local.name}-models"
  encrypted       = true
  throughput_mode = "elastic"

  tags = { Name = "${local.name}-models" }
}

# Every client that reaches a mount target may mount, with TLS only. Which clients reach it is decided by the security group.
resource "aws_efs_file_system_policy" "models" {
  count = var.efs ? 1 : 0

  file_system_id = aws_efs_file_system.models[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "MountInsideTheVpc"
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action = [
          "elasticfilesystem:ClientMount",
          "elasticfilesystem:ClientRootAccess",
          "elasticfilesystem:ClientWrite",
        ]
        Resource  = aws_efs_file_system.models[0].arn
        Condition = { Bool = { "elasticfilesystem:AccessedViaMountTarget" = "true" } }
      },
      {
        Sid       = "RefusePlainText"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "*"
        Resource  = aws_efs_file_system.models[0].arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

resource "aws_security_group" "efs" {
  count = var.efs ? 1 : 0

  name        = "${local.name}-efs"
  description = "Mount targets of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-efs" }
}

resource "aws_vpc_security_group_ingress_rule" "efs" {
  count = var.efs ? 1 : 0

  security_group_id            = aws_security_group.efs[0].id
  description                  = "NFS from nodes"
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  referenced_security_group_id = local.node_security_group_id
}

resource "aws_efs_mount_target" "models" {
  for_each = local.efs_subnets

  file_system_id  = aws_efs_file_system.models[0].id
  subnet_id       = each.value
  security_groups = [aws_security_group.efs[0].id]
}
