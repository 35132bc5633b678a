output "region" {
  description = "AWS region of the deployment."
  value       = var.region
}

output "account" {
  description = "AWS account of the deployment."
  value       = local.account_id
}

output "cluster_name" {
  description = "Name of the EKS cluster, which is also the name of the deployment."
  value       = aws_eks_cluster.this.name
}

output "buckets" {
  description = "Bucket names by kind: models, inputs, outputs, artifacts."
  value       = { for kind, bucket in data.aws_s3_bucket.this : kind => bucket.bucket }
}

output "queue_urls" {
  description = "URLs of the queues: model events, their dead letters, and Karpenter's interruption events."
  value = {
    model_events     = aws_sqs_queue.model_events.url
    model_events_dlq = aws_sqs_queue.model_events_dlq.url
    interruption     = aws_sqs_queue.interruption.url
  }
}

output "url" {
  description = "URL that users open; null without a load balancer."
  value = (
    var.domain_name != null ? "https://${var.domain_name}" :
    var.cloudfront ? "https://${aws_cloudfront_distribution.this[0].domain_name}" :
    var.load_balancer ? "http://${aws_lb.this[0].dns_name}" : null
  )
}

output "dns_record" {
  description = "DNS record for domain_name, which you create in the domain's zone; null without domain_name."
  value = var.domain_name == null ? null : {
    name  = var.domain_name
    type  = "CNAME"
    value = var.cloudfront ? aws_cloudfront_distribution.this[0].domain_name : aws_lb.this[0].dns_name
  }
}

output "load_balancer" {
  description = "What is needed to connect another network to the load balancer (docs/how-to/access-from-other-vpcs.md); null without one."
  value = !var.load_balancer ? null : {
    dns_name         = aws_lb.this[0].dns_name
    port             = local.listener_port
    vpc_id           = local.vpc_id
    subnet_ids       = local.load_balancer_subnet_ids
    subnet_cidrs     = local.load_balancer_subnet_cidrs
    route_table_ids  = [for table in aws_route_table.load_balancer : table.id]
    endpoint_service = local.privatelink ? aws_vpc_endpoint_service.this[0].service_name : null
  }
}

output "user_pool_id" {
  description = "ID of the Cognito user pool, to invite users; null without sign_in = \"cognito\"."
  value       = one(aws_cognito_user_pool.this[*].id)
}

output "image_build" {
  description = "What `comfyeks image build` needs: the CodeBuild project, the location of its source, and the registry that it pushes to."
  value = {
    project        = aws_codebuild_project.image.name
    source_bucket  = data.aws_s3_bucket.this["artifacts"].bucket
    source_key     = local.image_source_key
    repository_url = data.aws_ecr_repository.images.repository_url
  }
}

output "alarms_topic_arn" {
  description = "ARN of the SNS topic that receives all alarms."
  value       = aws_sns_topic.alarms.arn
}

output "chalice" {
  description = "Configuration of the Chalice app, written to lambda-chalice/.chalice/config.json."
  value = {
    stage        = local.chalice_stage
    iam_role_arn = aws_iam_role.sync.arn
    queue_arn    = aws_sqs_queue.model_events.arn

    environment_variables = {
      MODEL_EVENTS_QUEUE_ARN = aws_sqs_queue.model_events.arn
      MODEL_EVENTS_DLQ_URL   = aws_sqs_queue.model_events_dlq.url
      SYNC_DOCUMENT          = aws_ssm_document.sync_models.name
      SYNC_TAG_KEY           = local.sync_tag_key
      SYNC_TAG_VALUE         = local.name
    }

    tags = local.tags
  }
}

locals {
  # Registry of each publisher; a mirror has the images under the same names.
  image_sources = {
    for publisher, registry in { eks = "public.ecr.aws", karpenter = "public.ecr.aws", nvidia = "nvcr.io" } :
    publisher => coalesce(var.image_mirror, registry)
  }

  # Where it reaches IAM, Karpenter creates an instance profile from the role.
  node_identity = {
    for key, value in { nodeRole = aws_iam_role.gpu_node.name, nodeInstanceProfile = one(aws_iam_instance_profile.gpu_node[*].name) } :
    key => value if(key == "nodeRole") == local.reaches_internet
  }
}

output "helm_values" {
  description = "Values of each chart, in the layout of that chart, written below .comfyeks/<name>/."
  value = {
    karpenter_gpu = merge(local.node_identity, {
      cluster = {
        for key, value in { name = aws_eks_cluster.this.name, subnetIds = var.private_subnet_ids } :
        key => value if key != "subnetIds" || !local.own_vpc # in a new VPC they are found by tag
      }
      tags = local.tags

      modelSync = {
        bucket          = data.aws_s3_bucket.this["models"].bucket
        region          = var.region
        artifactsBucket = data.aws_s3_bucket.this["artifacts"].bucket
        files           = var.node_files
      }
    })

    comfyui = {
      aws            = { region = var.region }
      image          = { repository = data.aws_ecr_repository.images.repository_url }
      models         = { efs = { fileSystemId = var.efs ? aws_efs_file_system.models[0].id : "" } }
      inputs         = { bucket = data.aws_s3_bucket.this["inputs"].bucket }
      outputs        = { bucket = data.aws_s3_bucket.this["outputs"].bucket }
      serviceAccount = { name = var.comfyui_release }
      loadBalancer   = { targetGroupArn = var.load_balancer ? aws_lb_target_group.pods[0].arn : "" }

      networkPolicy = {
        enabled           = true # enforced by the network plugin (eks_addons.tf)
        vpcCidrs          = local.vpc_cidrs
        loadBalancerCidrs = local.load_balancer_subnet_cidrs
      }
    }

    addons = {
      "karpenter" = {
        serviceAccount = { name = local.pod_identities["karpenter"].service_account }
        settings = {
          clusterName       = aws_eks_cluster.this.name
          eksControlPlane   = true
          interruptionQueue = aws_sqs_queue.interruption.name
          isolatedVPC       = !local.reaches_internet # Karpenter does not query prices, whose API is outside the VPC
        }
        controller = {
          image = { repository = "${local.image_sources.karpenter}/karpenter/controller" }
          resources = {
            requests = { cpu = "500m", memory = "1Gi" }
            limits   = { memory = "1Gi" }
          }
        }
      }

      # Region and VPC are given because pods cannot read them from the node's metadata (hop limit 1).
      "aws-load-balancer-controller" = {
        clusterName    = aws_eks_cluster.this.name
        region         = var.region
        vpcId          = local.vpc_id
        serviceAccount = { name = local.pod_identities["load-balancer-controller"].service_account }
        image          = { repository = "${local.image_sources.eks}/eks/aws-load-balancer-controller" }
        enableShield   = local.reaches_internet # Shield and WAF have no endpoint inside a VPC
        enableWaf      = local.reaches_internet
      }

      "nvidia-device-plugin" = {
        image       = { repository = "${local.image_sources.nvidia}/nvidia/k8s-device-plugin" }
        tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
      }
    }
  }
}
