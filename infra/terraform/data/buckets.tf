# The buckets for models, inputs and outputs. Only `comfyeks infra destroy --delete-data` destroys this root; it asks for the
# deployment's name and empties the buckets first. There is no `force_destroy`, so that S3 rejects deleting a bucket with objects.

locals {
  buckets = {
    for kind in ["models", "inputs", "outputs"] : kind => "${local.name}-${kind}-${local.account_id}-${var.region}"
  }

  expiry_days = { models = null, inputs = var.inputs_expiry_days, outputs = var.outputs_expiry_days }
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:access_logs enables them; they are charged by request, and a node requests each part of a model
  #checkov:skip=CKV_AWS_21:models are versioned; outputs never reuse a key, and inputs are copies of files that users have
  #checkov:skip=CKV_AWS_144:replication to another region is left to the team: models can be downloaded again
  #checkov:skip=CKV_AWS_145:encrypted by S3 itself; a KMS key would be used, and charged, for each part of each model
  #checkov:skip=CKV2_AWS_62:the platform root adds notifications of the models bucket; nothing reads those of the others

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

  # S3 rejects two simultaneous changes of a bucket's access ("conflicting operation").
  depends_on = [aws_s3_bucket_public_access_block.this]
}

# Models only: restoring an overwritten checkpoint would take hours of download or training. Outputs never reuse a key.
resource "aws_s3_bucket_versioning" "models" {
  bucket = aws_s3_bucket.this["models"].id

  versioning_configuration {
    status = "Enabled"
  }
}

# Logged to the artifacts bucket, which neither pods nor people who write models can read: a separate bucket would have to be emptied
# before logs could be disabled.
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
