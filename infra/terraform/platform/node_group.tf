# CPU nodes for Karpenter, CoreDNS and the controllers. GPU pods are never scheduled here, because these nodes have no GPU.

resource "aws_iam_role" "system_node" {
  name               = "${local.iam_prefix}-system-node"
  assume_role_policy = local.ec2_trust_policy
}

resource "aws_iam_role_policy" "system_node" {
  name = "node"
  role = aws_iam_role.system_node.id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.node_statements
  })
}

resource "aws_launch_template" "system" {
  name = "${local.name}-system"

  # With hop limit 1 pods cannot get the credentials of the node.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_size           = var.system_node_disk_gib
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(local.tags, { Name = "${local.name}-system" })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(local.tags, { Name = "${local.name}-system" })
  }
}

resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.system_node.arn
  subnet_ids      = local.private_subnet_ids
  ami_type        = "AL2023_x86_64_STANDARD"
  release_version = local.versions.node_group_release # otherwise the newest of the day, which would differ between clusters
  instance_types  = var.system_node_types

  labels = { "comfyui-on-eks/pool" = "system" }

  launch_template {
    id      = aws_launch_template.system.id
    version = aws_launch_template.system.latest_version
  }

  # Karpenter runs two replicas, which must be on different nodes.
  scaling_config {
    desired_size = var.system_node_count
    min_size     = var.system_node_count
    max_size     = var.system_node_count + 1
  }

  update_config {
    max_unavailable = 1
  }

  # Nodes become Ready only with a network plugin; if they do not, EKS marks the group as failed.
  depends_on = [
    aws_eks_addon.before_nodes,
    aws_iam_role_policy.system_node,
    aws_route.nat,
    aws_vpc_endpoint.interface,
    aws_vpc_endpoint.s3,
    aws_route_table_association.private,
  ]
}
