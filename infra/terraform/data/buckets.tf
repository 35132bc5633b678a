# What people put in and get out. This root is destroyed by `comfyeks infra destroy --delete-data` only, which asks for the name and
# empties the buckets first: without `force_destroy`, S3 itself refuses to delete a bucket that holds anything, whoever asks.

locals {
  buckets = {
    for kind in ["models", "inputs", "outputs"] : kind => "${local.name}-${kind}-${local.account_id}-${var.region}"
  }

  expiry_days = { models = null, inputs = var.inputs_expiry_days, outputs = var.outputs_expiry_days }
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:access_logs switches them on; they are paid by request, and a node asks for each part of a model
  #checkov:skip=CKV_AWS_21:models are versioned; no output reuses a key, and inputs are copies of what people have
  #checkov:skip=CKV_AWS_144:a copy in another region is the team's own choice: models can be fetched again
  #checkov:skip=CKV_AWS_145:encrypted by S3 itself; a KMS key would be asked, and paid, for each part of each model
  #checkov:skip=CKV2_AWS_62:the models bucket has notifications, from the platform root; nobody listens to the others

  for_each = local.buckets

  bucket = each.value
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = local.buckets

  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "RefusePlainHttp"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:${local.partition}:s3:::${aws_s3_bucket.this[each.key].bucket}", "arn:${local.partition}:s3:::${aws_s3_bucket.this[each.key].bucket}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  # S3 answers "conflicting operation" to two changes of a bucket's access at once.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

# Models only: an overwritten checkpoint is hours of download or training. Outputs never reuse a key.
resource "aws_s3_bucket_versioning" "models" {
  bucket = aws_s3_bucket.this["models"].id

  versioning_configuration {
    status = "Enabled"
  }
}

# Into the artifacts bucket, which neither pods nor model writers can read: a bucket of its own would have to be emptied to
# switch logs off.
resource "aws_s3_bucket_logging" "this" {
  for_each = var.access_logs ? local.buckets : {}

  bucket        = aws_s3_bucket.this[each.key].id
  target_bucket = "${local.name}-artifacts-${local.account_id}-${var.region}"
  target_prefix = "access-logs/${each.key}/"
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "abort-stale-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.stale_upload_days
    }
  }

  dynamic "rule" {
    for_each = local.expiry_days[each.key][*]

    content {
      id     = "expire"
      status = "Enabled"

      filter {}

      expiration {
        days = rule.value
      }
    }
  }

  dynamic "rule" {
    for_each = each.key == "models" ? ["models"] : []

    content {
      id     = "expire-old-versions"
      status = "Enabled"

      filter {}

      noncurrent_version_expiration {
        noncurrent_days = var.models_old_version_days
      }

      expiration {
        expired_object_delete_marker = true
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.models]
}
