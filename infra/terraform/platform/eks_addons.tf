# EKS add-ons. Versions: `eks_addons` in versions.yaml, exact builds.

locals {
  # A node needs these to become Ready, and its pods to get credentials.
  addons_before_nodes = ["eks-pod-identity-agent", "kube-proxy", "vpc-cni"]

  addons_on_nodes = setsubtract(keys(local.versions.eks_addons), concat(local.addons_before_nodes, var.efs ? [] : ["aws-efs-csi-driver"]))

  addon_configuration = {
    "vpc-cni" = { enableNetworkPolicy = "true" }
  }
}

resource "aws_eks_addon" "before_nodes" {
  for_each = toset(local.addons_before_nodes)

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = local.versions.eks_addons[each.key]
  configuration_values        = try(jsonencode(local.addon_configuration[each.key]), null)
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  # Pods started before their association would run without credentials until restarted.
  depends_on = [aws_eks_pod_identity_association.this]
}

# These run as Deployments: until a node can run them they stay degraded, and EKS waits for them.
resource "aws_eks_addon" "on_nodes" {
  for_each = local.addons_on_nodes

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = local.versions.eks_addons[each.key]
  configuration_values        = try(jsonencode(local.addon_configuration[each.key]), null)
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  depends_on = [
    aws_eks_node_group.system,
    aws_eks_pod_identity_association.this,
  ]
}
