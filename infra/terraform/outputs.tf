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
  description = "What another network needs for a way to the load balancer (docs/access-from-other-vpcs.md); null without one."
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

output "helm_values" {
  description = "Values of each chart, in that chart's own layout: written below .comfyeks/<name>/."
  value = {
    karpenter_gpu = {
      cluster  = { name = aws_eks_cluster.this.name }
      nodeRole = aws_iam_role.gpu_node.name
      tags     = local.tags

      modelSync = {
        bucket          = data.aws_s3_bucket.this["models"].bucket
        region          = var.region
        artifactsBucket = data.aws_s3_bucket.this["artifacts"].bucket

        # Through the objects, so that no values file names a program that is not in the bucket yet.
        files = { for part, object in aws_s3_object.node_program : part => { key = object.key, sha256 = object.source_hash } }
      }
    }

    comfyui = {
      aws            = { region = var.region }
      image          = { repository = data.aws_ecr_repository.images.repository_url }
      inputs         = { bucket = data.aws_s3_bucket.this["inputs"].bucket }
      outputs        = { bucket = data.aws_s3_bucket.this["outputs"].bucket }
      serviceAccount = { name = var.comfyui_release }
      loadBalancer   = { targetGroupArn = var.load_balancer ? aws_lb_target_group.pods[0].arn : "" }

      networkPolicy = {
        enabled           = true # by the network plugin (addons.tf)
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
        }
        controller = {
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
        vpcId          = aws_vpc.this.id
        serviceAccount = { name = local.pod_identities["load-balancer-controller"].service_account }
      }

      "nvidia-device-plugin" = {
        tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
      }
    }
  }
}
