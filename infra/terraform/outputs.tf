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
