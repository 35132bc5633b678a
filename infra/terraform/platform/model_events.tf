# When a model is uploaded or deleted: bucket -> queue -> Lambda function (lambda-chalice/, deployed by Chalice) -> one SSM command to
# all nodes.

locals {
  model_events_name     = "${local.name}-model-events"
  model_events_arn      = "arn:${local.partition}:sqs:${var.region}:${local.account_id}:${local.model_events_name}"
  model_events_dlq_name = "${local.name}-model-events-dlq"
  model_events_dlq_arn  = "arn:${local.partition}:sqs:${var.region}:${local.account_id}:${local.model_events_dlq_name}"

  chalice_stage         = coalesce(var.project, "default")
  sync_function_name    = "comfyui-models-${local.chalice_stage}-sync"
  sync_function_timeout = 60 # seconds; TIMEOUT_SECONDS of `comfyeks events` is the same

  sync_tag_key = "ComfyUIModelSync"

  queue_kms_key_arn = var.queue_kms_key ? aws_kms_key.messages.arn : null

  # For the readers of the queues, and for the function, which also sends to the dead-letter queue.
  read_encrypted_queues = [
    for arn in local.queue_kms_key_arn[*] : {
      Sid      = "UseQueueKey"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = arn
    }
  ]

  # Messages hold keys of the bucket, which plain HTTP would send unencrypted.
  refuse_plain_http = {
    Sid       = "RefusePlainHttp"
    Effect    = "Deny"
    Principal = "*"
    Action    = "sqs:*"
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  }
}

# The provider waits 25 s for each queue and for each aws_sqs_queue_policy, until SQS is consistent. So policies are arguments of the
# queues. A queue cannot refer to itself there, which is why ARNs of queues are put together from their names; only the redrive
# policy needs the other queue to exist.
resource "aws_sqs_queue" "model_events_dlq" {
  name                      = local.model_events_dlq_name
  message_retention_seconds = 14 * 24 * 3600
  sqs_managed_sse_enabled   = var.queue_kms_key ? null : true
  kms_master_key_id         = local.queue_kms_key_arn

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [local.model_events_arn]
  })

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [merge(local.refuse_plain_http, { Resource = local.model_events_dlq_arn })]
  })
}

resource "aws_sqs_queue" "model_events" {
  name                      = local.model_events_name
  message_retention_seconds = 4 * 24 * 3600
  sqs_managed_sse_enabled   = var.queue_kms_key ? null : true # S3 cannot use the KMS key that AWS manages for SQS
  kms_master_key_id         = local.queue_kms_key_arn

  # AWS recommends six times the function's timeout, so that a batch is not delivered again while it is processed.
  visibility_timeout_seconds = 6 * local.sync_function_timeout

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.model_events_dlq.arn
    maxReceiveCount     = 5
  })

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "ModelsBucket"
        Effect    = "Allow"
        Principal = { Service = "s3.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = local.model_events_arn
        Condition = {
          ArnEquals    = { "aws:SourceArn" = local.bucket_arns.models }
          StringEquals = { "aws:SourceAccount" = local.account_id }
        }
      },
      merge(local.refuse_plain_http, { Resource = local.model_events_arn }),
    ]
  })
}

# A bucket has a single notification configuration: Terraform manages it, and Chalice only reads the queue.
resource "aws_s3_bucket_notification" "models" {
  bucket = data.aws_s3_bucket.this["models"].bucket

  queue {
    id        = local.model_events_name
    queue_arn = aws_sqs_queue.model_events.arn
    events    = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
  }
}

# Makes a GPU node sync its models with the bucket, or report the status of the sync. No key of the bucket is passed to a shell.
resource "aws_ssm_document" "sync_models" {
  name            = "${local.name}-sync-models"
  document_type   = "Command"
  document_format = "YAML"
  target_type     = "/AWS::EC2::Instance"
  content         = file("${path.module}/sync-models.ssm.yaml")
}

# Otherwise Lambda creates this group on first use, without an expiry.
resource "aws_cloudwatch_log_group" "sync" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every group with a key of its own
  #checkov:skip=CKV_AWS_338:how long logs are kept, and paid for, is log_retention_days

  name              = "/aws/lambda/${local.sync_function_name}"
  retention_in_days = var.log_retention_days
}

resource "aws_iam_role" "sync" {
  name = "${local.iam_prefix}-model-events"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "sync" {
  name = "model-events"
  role = aws_iam_role.sync.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.read_encrypted_queues, [
      {
        Sid      = "ReadEvents"
        Effect   = "Allow"
        Action   = ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
        Resource = local.model_events_arn
      },
      {
        Sid      = "SetUnreadableAside"
        Effect   = "Allow"
        Action   = "sqs:SendMessage"
        Resource = local.model_events_dlq_arn
      },
      {
        Sid      = "UseSyncDocument"
        Effect   = "Allow"
        Action   = "ssm:SendCommand"
        Resource = "arn:${local.partition}:ssm:${var.region}:${local.account_id}:document/${aws_ssm_document.sync_models.name}"
      },
      {
        Sid       = "OnSyncNodes"
        Effect    = "Allow"
        Action    = "ssm:SendCommand"
        Resource  = "${local.ec2_arn_prefix}:${local.account_id}:instance/*"
        Condition = { StringEquals = { "ssm:resourceTag/${local.sync_tag_key}" = local.name } }
      },
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "arn:${local.partition}:logs:${var.region}:${local.account_id}:log-group:${aws_cloudwatch_log_group.sync.name}:*"
      },
    ])
  })
}
