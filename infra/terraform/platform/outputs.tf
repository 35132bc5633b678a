output "region" {
  description = "AWS region of the deployment."
  value       = var.region
}

output "account" {
  description = "AWS account of the deployment."
  value       = local.account_id
}

output "cluster_name" {
  description = "EKS cluster; the name of the whole deployment."
  value       = aws_eks_cluster.this.name
}

output "buckets" {
  description = "Bucket names by kind: models, inputs, outputs, artifacts."
  value       = { for kind, bucket in data.aws_s3_bucket.this : kind => bucket.bucket }
}

output "queue_urls" {
  description = "Queues: model events, their dead letters, and Karpenter's interruptions."
  value = {
    model_events     = aws_sqs_queue.model_events.url
    model_events_dlq = aws_sqs_queue.model_events_dlq.url
    interruption     = aws_sqs_queue.interruption.url
  }
}

output "url" {
  description = "Address that users open; null without a load balancer."
  value = (
    var.domain_name != null ? "https://${var.domain_name}" :
    var.cloudfront ? "https://${aws_cloudfront_distribution.this[0].domain_name}" :
    var.load_balancer ? "http://${aws_lb.this[0].dns_name}" : null
  )
}

output "dns_record" {
  description = "The DNS record that makes domain_name work: yours to add where the domain's zone is; null without domain_name."
  value = var.domain_name == null ? null : {
    name  = var.domain_name
    type  = "CNAME"
    value = var.cloudfront ? aws_cloudfront_distribution.this[0].domain_name : aws_lb.this[0].dns_name
  }
}

output "load_balancer" {
  description = "What another network needs for a way to the load balancer (docs/how-to/access-from-other-vpcs.md); null without one."
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
  description = "Cognito user pool in which users are invited; null without sign_in = \"cognito\"."
  value       = one(aws_cognito_user_pool.this[*].id)
}

output "image_build" {
  description = "What `make image` needs: the CodeBuild project, where it takes its source from, and where it pushes."
  value = {
    project        = aws_codebuild_project.image.name
    source_bucket  = data.aws_s3_bucket.this["artifacts"].bucket
    source_key     = local.image_source_key
    repository_url = data.aws_ecr_repository.images.repository_url
  }
}

output "alarms_topic_arn" {
  description = "SNS topic of all alarms, to subscribe to."
  value       = aws_sns_topic.alarms.arn
}

output "chalice" {
  description = "What the Chalice app needs: written to lambda-chalice/.chalice/config.json."
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
  # Where each publisher keeps its images; a mirror keeps them under the same names.
  image_sources = {
    for publisher, registry in { eks = "public.ecr.aws", karpenter = "public.ecr.aws", nvidia = "nvcr.io" } :
    publisher => coalesce(var.image_mirror, registry)
  }

  # Karpenter makes an instance profile out of the role, where it reaches IAM.
  node_identity = {
    for key, value in { nodeRole = aws_iam_role.gpu_node.name, nodeInstanceProfile = one(aws_iam_instance_profile.gpu_node[*].name) } :
    key => value if(key == "nodeRole") == local.reaches_internet
  }
}

output "helm_values" {
  description = "Values of each chart, in that chart's own layout: written below .comfyeks/<name>/."
  value = {
    karpenter_gpu = merge(local.node_identity, {
      cluster = {
        for key, value in { name = aws_eks_cluster.this.name, subnetIds = var.private_subnet_ids } :
        key => value if key != "subnetIds" || !local.own_vpc # found by tag in a VPC of ours
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
        enabled           = true # by the network plugin (eks_addons.tf)
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
          isolatedVPC       = !local.reaches_internet # asks for no prices: they are outside
        }
        controller = {
          image = { repository = "${local.image_sources.karpenter}/karpenter/controller" }
          resources = {
            requests = { cpu = "500m", memory = "1Gi" }
            limits   = { memory = "1Gi" }
          }
        }
      }

      # Region and VPC are named because pods cannot ask the node's metadata for them (hop limit 1).
      "aws-load-balancer-controller" = {
        clusterName    = aws_eks_cluster.this.name
        region         = var.region
        vpcId          = local.vpc_id
        serviceAccount = { name = local.pod_identities["load-balancer-controller"].service_account }
        image          = { repository = "${local.image_sources.eks}/eks/aws-load-balancer-controller" }
        enableShield   = local.reaches_internet # neither has an endpoint inside a VPC
        enableWaf      = local.reaches_internet
      }

      "nvidia-device-plugin" = {
        image       = { repository = "${local.image_sources.nvidia}/nvidia/k8s-device-plugin" }
        tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
      }
    }
  }
}
