# Karpenter's AWS side. The controller is installed by `comfyeks addons install`, node pools by charts/karpenter-gpu.

# GPU nodes: the permissions of every node, and reading models and the node program.
resource "aws_iam_role" "gpu_node" {
  name               = "${local.iam_prefix}-gpu-node"
  assume_role_policy = local.ec2_trust_policy
}

resource "aws_iam_role_policy" "gpu_node" {
  name = "node"
  role = aws_iam_role.gpu_node.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.node_statements, [
      {
        Sid      = "ListModels"
        Effect   = "Allow"
        Action   = "s3:ListBucket"
        Resource = local.bucket_arns.models
      },
      {
        Sid      = "ReadModels"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "${local.bucket_arns.models}/*"
      },
      {
        # Not the whole bucket: it also holds the state of Terraform.
        Sid      = "ReadNodeProgram"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "${local.bucket_arns.artifacts}/node/*"
      },
    ])
  })
}

# Karpenter creates instance profiles itself where it reaches IAM, which has no endpoint inside a VPC.
resource "aws_iam_instance_profile" "gpu_node" {
  count = local.reaches_internet ? 0 : 1

  name = "${local.iam_prefix}-gpu-node"
  role = aws_iam_role.gpu_node.name
}

resource "aws_eks_access_entry" "gpu_node" {
  cluster_name  = aws_eks_cluster.this.name
  principal_arn = aws_iam_role.gpu_node.arn
  type          = "EC2_LINUX"
}

# Spot interruption notices, rebalance recommendations and health events. A spot notice comes two minutes ahead, so messages are kept
# for five minutes only.
locals {
  interruption_queue_name = "${local.name}-interruption"
  interruption_queue_arn  = "arn:${local.partition}:sqs:${var.region}:${local.account_id}:${local.interruption_queue_name}"

  interruption_events = {
    spot-interruption    = { source = "aws.ec2", type = "EC2 Spot Instance Interruption Warning" }
    rebalance            = { source = "aws.ec2", type = "EC2 Instance Rebalance Recommendation" }
    state-change         = { source = "aws.ec2", type = "EC2 Instance State-change Notification" }
    capacity-reservation = { source = "aws.ec2", type = "EC2 Capacity Reservation Instance Interruption Warning" }
    health               = { source = "aws.health", type = "AWS Health Event" }
  }
}

resource "aws_sqs_queue" "interruption" {
  name                      = local.interruption_queue_name
  message_retention_seconds = 300
  sqs_managed_sse_enabled   = var.queue_kms_key ? null : true
  kms_master_key_id         = local.queue_kms_key_arn

  # Not an aws_sqs_queue_policy: see model_events.tf.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "EventBridge"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = local.interruption_queue_arn
        Condition = { ArnEquals = {
          "aws:SourceArn" = [
            for rule in aws_cloudwatch_event_rule.interruption :
            "arn:${local.partition}:events:${var.region}:${local.account_id}:rule/${rule.name}"
          ]
        } }
      },
      merge(local.refuse_plain_http, { Resource = local.interruption_queue_arn }),
    ]
  })
}

resource "aws_cloudwatch_event_rule" "interruption" {
  for_each = local.interruption_events

  name        = "${local.name}-${each.key}"
  description = "${each.value.type}, for Karpenter of ${local.name}"

  event_pattern = jsonencode({
    source        = [each.value.source]
    "detail-type" = [each.value.type]
  })
}

resource "aws_cloudwatch_event_target" "interruption" {
  for_each = local.interruption_events

  rule      = aws_cloudwatch_event_rule.interruption[each.key].name
  target_id = "karpenter" # a generated id would differ if the apply is repeated, and Karpenter would get each event twice
  arn       = aws_sqs_queue.interruption.arn
}

# The controller's permissions are those of Karpenter 1.14 without zonal shift, which is off (settings.enableZonalShift). In one
# inline policy, because a managed policy is limited to 6,144 characters.
locals {
  ec2_arn_prefix = "arn:${local.partition}:ec2:${var.region}"
  owned_tag      = "kubernetes.io/cluster/${local.name}"

  karpenter_launched = [
    for kind in ["fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request"] :
    "${local.ec2_arn_prefix}:*:${kind}/*"
  ]

  karpenter_instance_profiles = "arn:${local.partition}:iam::${local.account_id}:instance-profile/*"

  karpenter_statements = concat(local.read_encrypted_queues, [
    {
      Sid    = "LaunchFromShared"
      Effect = "Allow"
      Action = ["ec2:CreateFleet", "ec2:RunInstances"]
      Resource = [
        "${local.ec2_arn_prefix}::image/*",
        "${local.ec2_arn_prefix}::snapshot/*",
        "${local.ec2_arn_prefix}:*:capacity-reservation/*",
        "${local.ec2_arn_prefix}:*:placement-group/*",
        "${local.ec2_arn_prefix}:*:security-group/*",
        "${local.ec2_arn_prefix}:*:subnet/*",
      ]
    },
    {
      Sid      = "LaunchFromOwnTemplates"
      Effect   = "Allow"
      Action   = ["ec2:CreateFleet", "ec2:RunInstances"]
      Resource = "${local.ec2_arn_prefix}:*:launch-template/*"
      Condition = {
        StringEquals = { "aws:ResourceTag/${local.owned_tag}" = "owned" }
        StringLike   = { "aws:ResourceTag/karpenter.sh/nodepool" = "*" }
      }
    },
    {
      Sid      = "LaunchTagged"
      Effect   = "Allow"
      Action   = ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:RunInstances"]
      Resource = local.karpenter_launched
      Condition = {
        StringEquals = {
          "aws:RequestTag/${local.owned_tag}"   = "owned"
          "aws:RequestTag/eks:eks-cluster-name" = local.name
        }
        StringLike = { "aws:RequestTag/karpenter.sh/nodepool" = "*" }
      }
    },
    {
      Sid      = "TagAtLaunch"
      Effect   = "Allow"
      Action   = "ec2:CreateTags"
      Resource = local.karpenter_launched
      Condition = {
        StringEquals = {
          "aws:RequestTag/${local.owned_tag}"   = "owned"
          "aws:RequestTag/eks:eks-cluster-name" = local.name
          "ec2:CreateAction"                    = ["CreateFleet", "CreateLaunchTemplate", "RunInstances"]
        }
        StringLike = { "aws:RequestTag/karpenter.sh/nodepool" = "*" }
      }
    },
    {
      Sid      = "TagOwnInstances"
      Effect   = "Allow"
      Action   = "ec2:CreateTags"
      Resource = "${local.ec2_arn_prefix}:*:instance/*"
      Condition = {
        StringEquals                = { "aws:ResourceTag/${local.owned_tag}" = "owned" }
        StringEqualsIfExists        = { "aws:RequestTag/eks:eks-cluster-name" = local.name }
        StringLike                  = { "aws:ResourceTag/karpenter.sh/nodepool" = "*" }
        "ForAllValues:StringEquals" = { "aws:TagKeys" = ["Name", "eks:eks-cluster-name", "karpenter.sh/nodeclaim"] }
      }
    },
    {
      Sid    = "RemoveOwn"
      Effect = "Allow"
      Action = ["ec2:DeleteLaunchTemplate", "ec2:TerminateInstances"]
      Resource = [
        "${local.ec2_arn_prefix}:*:instance/*",
        "${local.ec2_arn_prefix}:*:launch-template/*",
      ]
      Condition = {
        StringEquals = { "aws:ResourceTag/${local.owned_tag}" = "owned" }
        StringLike   = { "aws:ResourceTag/karpenter.sh/nodepool" = "*" }
      }
    },
    {
      Sid    = "ReadRegion"
      Effect = "Allow"
      Action = [
        "ec2:DescribeCapacityReservations",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribePlacementGroups",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSpotPriceHistory",
        "ec2:DescribeSubnets",
      ]
      Resource  = "*" # describe actions do not support resources
      Condition = { StringEquals = { "aws:RequestedRegion" = var.region } }
    },
    {
      Sid      = "ReadImageParameters"
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = "arn:${local.partition}:ssm:${var.region}::parameter/aws/service/*"
    },
    {
      Sid      = "ReadPrices"
      Effect   = "Allow"
      Action   = "pricing:GetProducts"
      Resource = "*" # the action does not support resources
    },
    {
      Sid      = "ReadInterruptions"
      Effect   = "Allow"
      Action   = ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"]
      Resource = local.interruption_queue_arn
    },
    {
      Sid      = "FindClusterEndpoint"
      Effect   = "Allow"
      Action   = "eks:DescribeCluster"
      Resource = "arn:${local.partition}:eks:${var.region}:${local.account_id}:cluster/${local.name}"
    },
    {
      Sid       = "PassNodeRole"
      Effect    = "Allow"
      Action    = "iam:PassRole"
      Resource  = "arn:${local.partition}:iam::${local.account_id}:role/${aws_iam_role.gpu_node.name}"
      Condition = { StringEquals = { "iam:PassedToService" = ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"] } }
    },
    {
      Sid      = "CreateProfiles"
      Effect   = "Allow"
      Action   = "iam:CreateInstanceProfile"
      Resource = local.karpenter_instance_profiles
      Condition = {
        StringEquals = {
          "aws:RequestTag/${local.owned_tag}"            = "owned"
          "aws:RequestTag/eks:eks-cluster-name"          = local.name
          "aws:RequestTag/topology.kubernetes.io/region" = var.region
        }
        StringLike = { "aws:RequestTag/karpenter.k8s.aws/ec2nodeclass" = "*" }
      }
    },
    {
      Sid      = "TagOwnProfiles"
      Effect   = "Allow"
      Action   = "iam:TagInstanceProfile"
      Resource = local.karpenter_instance_profiles
      Condition = {
        StringEquals = {
          "aws:RequestTag/${local.owned_tag}"             = "owned"
          "aws:RequestTag/eks:eks-cluster-name"           = local.name
          "aws:RequestTag/topology.kubernetes.io/region"  = var.region
          "aws:ResourceTag/${local.owned_tag}"            = "owned"
          "aws:ResourceTag/topology.kubernetes.io/region" = var.region
        }
        StringLike = {
          "aws:RequestTag/karpenter.k8s.aws/ec2nodeclass"  = "*"
          "aws:ResourceTag/karpenter.k8s.aws/ec2nodeclass" = "*"
        }
      }
    },
    {
      Sid      = "UseOwnProfiles"
      Effect   = "Allow"
      Action   = ["iam:AddRoleToInstanceProfile", "iam:DeleteInstanceProfile", "iam:RemoveRoleFromInstanceProfile"]
      Resource = local.karpenter_instance_profiles
      Condition = {
        StringEquals = {
          "aws:ResourceTag/${local.owned_tag}"            = "owned"
          "aws:ResourceTag/topology.kubernetes.io/region" = var.region
        }
        StringLike = { "aws:ResourceTag/karpenter.k8s.aws/ec2nodeclass" = "*" }
      }
    },
    {
      Sid      = "ReadProfiles"
      Effect   = "Allow"
      Action   = "iam:GetInstanceProfile"
      Resource = local.karpenter_instance_profiles
    },
    {
      Sid      = "ListProfiles"
      Effect   = "Allow"
      Action   = "iam:ListInstanceProfiles"
      Resource = "*" # the action does not support resources
    },
  ])
}
