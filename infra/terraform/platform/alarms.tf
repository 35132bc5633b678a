# Alarms for model events that are not processed, and for a month that costs more than the budget.

resource "aws_sns_topic" "alarms" {
  name              = "${local.name}-alarms"
  kms_master_key_id = aws_kms_key.messages.arn # CloudWatch cannot use the key that AWS manages for SNS

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Publish"
        Effect    = "Allow"
        Principal = { Service = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"] }
        Action    = "sns:Publish"
        Resource  = local.alarms_topic_arn
        Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
      },
      {
        Sid       = "RefusePlainHttp"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sns:Publish"
        Resource  = local.alarms_topic_arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

resource "aws_sns_topic_subscription" "email" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

# Encrypts the alarms' topic, and the queues if queue_kms_key = true. A service that sends to an encrypted topic or queue needs
# permission in the policy of the key; the policies of keys that AWS manages give it to none.
resource "aws_kms_key" "messages" {
  description             = "Queues and alarms of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 7

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "AccountDecidesByIam"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*" # in a key's policy: this key
      },
      {
        Sid       = "ServicesThatWrite"
        Effect    = "Allow"
        Principal = { Service = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com", "events.amazonaws.com", "s3.amazonaws.com"] }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*" # which queue or topic they may send to is in the policies of those
      },
    ]
  })
}

resource "aws_kms_alias" "messages" {
  name          = "alias/${local.name}-messages"
  target_key_id = aws_kms_key.messages.key_id
}

locals {
  alarms_topic_arn = "arn:${local.partition}:sns:${var.region}:${local.account_id}:${local.name}-alarms"

  alarms = {
    "model-events-dead-letters" = {
      description = "Model events that could not be processed. The nodes' timer still syncs their models; docs/architecture.md explains how events get there."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.model_events_dlq.name }
      statistic   = "Maximum"
      threshold   = 0
      periods     = 1
    }
    "model-events-age" = {
      description = "Model events have waited for more than 15 minutes: the function is not deployed, is throttled or fails."
      namespace   = "AWS/SQS"
      metric      = "ApproximateAgeOfOldestMessage"
      dimensions  = { QueueName = aws_sqs_queue.model_events.name }
      statistic   = "Maximum"
      threshold   = 900
      periods     = 1
    }
    # A failed batch is retried: a single error needs no action, a quarter of an hour of errors does.
    "model-events-errors" = {
      description = "The model-events function has failed for 15 minutes: see its log, /aws/lambda/${local.sync_function_name}."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = local.sync_function_name }
      statistic   = "Sum"
      threshold   = 0
      periods     = 3
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${local.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = each.value.periods
  treat_missing_data  = "notBreaching" # an empty queue has no data points
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

# Counts what carries the tag Deployment, once that tag is activated as a cost allocation tag in the billing console.
resource "aws_budgets_budget" "monthly" {
  count = var.monthly_budget_usd == null ? 0 : 1

  name         = "${local.iam_prefix}-monthly" # budgets are global to the account
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"

  cost_filter {
    name   = "TagKeyValue"
    values = ["user:Deployment$${local.name}"]
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }

    content {
      notification_type         = notification.key
      comparison_operator       = "GREATER_THAN"
      threshold                 = notification.value
      threshold_type            = "PERCENTAGE"
      subscriber_sns_topic_arns = [aws_sns_topic.alarms.arn]
    }
  }
}
