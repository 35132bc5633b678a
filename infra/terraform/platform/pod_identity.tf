# EKS Pod Identity: the role of each service account. All roles have the same trust policy; the association says which service
# account gets which role.

locals {
  pod_identities = merge(local.efs_identity, {
    "vpc-cni" = {
      namespace       = "kube-system"
      service_account = "aws-node"
    }
    "s3-csi-driver" = {
      namespace       = "kube-system"
      service_account = "s3-csi-driver-sa"
    }
    "karpenter" = {
      namespace       = "kube-system"
      service_account = "karpenter"
    }
    "load-balancer-controller" = {
      namespace       = "kube-system"
      service_account = "aws-load-balancer-controller"
    }
    "comfyui" = {
      namespace       = var.comfyui_namespace
      service_account = var.comfyui_release
    }
  })

  efs_identity = { for name in ["efs-csi-driver"] : name => { namespace = "kube-system", service_account = "efs-csi-controller-sa" } if var.efs }

  mounted_buckets = var.mount_outputs ? ["inputs", "outputs"] : ["inputs"]

  pod_policies = merge(local.efs_policy, {
    # Mountpoint: users edit inputs in place. Outputs are not versioned, so a deleted one is lost: pods can read and write at most, and
    # only with `outputs.mode: mount`.
    "s3-csi-driver" = concat(
      [
        {
          Sid      = "ListVolumes"
          Effect   = "Allow"
          Action   = ["s3:ListBucket"]
          Resource = [for kind in local.mounted_buckets : local.bucket_arns[kind]]
        },
        {
          Sid      = "UseInputs"
          Effect   = "Allow"
          Action   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
          Resource = ["${local.bucket_arns.inputs}/*"]
        },
      ],
      [
        for kind in local.mounted_buckets : {
          Sid      = "AddOutputs"
          Effect   = "Allow"
          Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
          Resource = ["${local.bucket_arns.outputs}/*"]
        } if kind == "outputs"
      ],
    )

    "karpenter" = local.karpenter_statements

    # Enough for TargetGroupBinding: Terraform manages the load balancer, not the controller.
    "load-balancer-controller" = [
      {
        Sid    = "ReadTargets"
        Effect = "Allow"
        Action = [
          "ec2:DescribeAvailabilityZones",
          "ec2:DescribeInstances",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSecurityGroups",
          "ec2:DescribeSubnets",
          "ec2:DescribeVpcs",
          "elasticloadbalancing:DescribeTargetGroupAttributes",
          "elasticloadbalancing:DescribeTargetGroups",
          "elasticloadbalancing:DescribeTargetHealth",
        ]
        Resource = "*" # describe actions do not support resources
      },
      {
        Sid      = "RegisterTargets"
        Effect   = "Allow"
        Action   = ["elasticloadbalancing:DeregisterTargets", "elasticloadbalancing:RegisterTargets"]
        Resource = "arn:${local.partition}:elasticloadbalancing:${var.region}:${local.account_id}:targetgroup/${local.name}-pods/*" # by name, so that the policy is the same without a load balancer; comfyui-* would match every deployment
      },
    ]

    # The uploader writes new keys. It reads a key only if S3 reports that it exists, to check whether it wrote it itself.
    "comfyui" = [
      {
        Sid      = "WriteOutputs"
        Effect   = "Allow"
        Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        Resource = "${local.bucket_arns.outputs}/*"
      },
    ]
  })

  # The chart's volume is static: the driver only reads and creates nothing.
  efs_policy = {
    for name in keys(local.efs_identity) : name => [
      {
        Sid    = "FindFileSystem"
        Effect = "Allow"
        Action = [
          "elasticfilesystem:DescribeAccessPoints",
          "elasticfilesystem:DescribeFileSystems",
          "elasticfilesystem:DescribeMountTargets",
        ]
        Resource = aws_efs_file_system.models[0].arn
      },
      {
        Sid      = "FindZones"
        Effect   = "Allow"
        Action   = "ec2:DescribeAvailabilityZones"
        Resource = "*" # the action does not support resources
      },
    ]
  }
}

resource "aws_iam_role" "pod" {
  for_each = local.pod_identities

  name = "${local.iam_prefix}-${each.key}"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.pod_policies

  name = each.key
  role = aws_iam_role.pod[each.key].id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = each.value
  })
}

# AWS updates this policy together with the network plugin.
resource "aws_iam_role_policy_attachment" "vpc_cni" {
  role       = aws_iam_role.pod["vpc-cni"].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEKS_CNI_Policy"
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = local.pod_identities

  cluster_name    = aws_eks_cluster.this.name
  namespace       = each.value.namespace
  service_account = each.value.service_account
  role_arn        = aws_iam_role.pod[each.key].arn
}
