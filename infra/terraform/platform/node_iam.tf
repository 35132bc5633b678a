# Permissions of every node, whether started by the managed group or by Karpenter. The network plugin has its own role
# (pod_identity.tf).

locals {
  ec2_trust_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  node_statements = [
    {
      Sid      = "JoinCluster"
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes"]
      Resource = "*" # these actions do not support resources
    },
    {
      Sid      = "PodIdentityAgent"
      Effect   = "Allow"
      Action   = "eks-auth:AssumeRoleForPodIdentity"
      Resource = "arn:${local.partition}:eks:${var.region}:${local.account_id}:cluster/${local.name}"
    },
    {
      Sid      = "RegistryLogin"
      Effect   = "Allow"
      Action   = "ecr:GetAuthorizationToken"
      Resource = "*" # the action does not support resources
    },
    {
      # The images of EKS add-ons are in registries of AWS's accounts, which differ by region.
      Sid      = "PullImages"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = "arn:${local.partition}:ecr:${var.region}:*:repository/*"
    },
    {
      # AmazonSSMManagedInstanceCore without its ssm:GetParameter on every parameter of the account.
      Sid      = "SystemsManagerRegistration"
      Effect   = "Allow"
      Action   = "ssm:UpdateInstanceInformation"
      Resource = "${local.ec2_arn_prefix}:${local.account_id}:instance/*"
    },
    {
      Sid    = "SystemsManagerChannels"
      Effect = "Allow"
      Action = [
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = "*" # these actions do not support resources
    },
  ]
}
