# `comfyeks image build` uploads image/ to the artifacts bucket, which people who may write models cannot change; CodeBuild builds it and
# pushes the image to the registry.

locals {
  image_build_name = "${local.name}-image"
  image_source_key = "image/source.zip"
}

# Otherwise CodeBuild creates this group on first use, without an expiry.
resource "aws_cloudwatch_log_group" "image_build" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every group with a key of its own
  #checkov:skip=CKV_AWS_338:how long logs are kept, and paid for, is log_retention_days

  name              = "/aws/codebuild/${local.image_build_name}"
  retention_in_days = var.log_retention_days
}

resource "aws_iam_role" "image_build" {
  name = "${local.iam_prefix}-image-build"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "codebuild.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "image_build" {
  name = "image-build"
  role = aws_iam_role.image_build.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadSource"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:GetObjectVersion"]
        Resource = "${local.bucket_arns.artifacts}/${local.image_source_key}"
      },
      {
        Sid      = "FindSource"
        Effect   = "Allow"
        Action   = "s3:GetBucketLocation"
        Resource = local.bucket_arns.artifacts
      },
      {
        Sid      = "RegistryLogin"
        Effect   = "Allow"
        Action   = "ecr:GetAuthorizationToken"
        Resource = "*" # the action does not support resources
      },
      {
        Sid    = "PushImage"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability",
          "ecr:BatchGetImage",
          "ecr:CompleteLayerUpload",
          "ecr:GetDownloadUrlForLayer",
          "ecr:InitiateLayerUpload",
          "ecr:PutImage",
          "ecr:UploadLayerPart",
        ]
        Resource = "arn:${local.partition}:ecr:${var.region}:${local.account_id}:repository/${data.aws_ecr_repository.images.name}"
      },
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "arn:${local.partition}:logs:${var.region}:${local.account_id}:log-group:${aws_cloudwatch_log_group.image_build.name}:*"
      },
    ]
  })
}

resource "aws_codebuild_project" "image" {
  #checkov:skip=CKV_AWS_316:the build runs Docker, in a machine that CodeBuild starts for this build only

  name          = local.image_build_name
  description   = "Builds image/ and pushes it to ${data.aws_ecr_repository.images.name}"
  service_role  = aws_iam_role.image_build.arn
  build_timeout = 120 # minutes

  source {
    type      = "S3"
    location  = "${data.aws_s3_bucket.this["artifacts"].bucket}/${local.image_source_key}"
    buildspec = file("${path.module}/image-build.buildspec.yaml")
  }

  environment {
    type            = "LINUX_CONTAINER"
    compute_type    = "BUILD_GENERAL1_LARGE"
    image           = local.versions.codebuild_image
    privileged_mode = true # the build runs its own Docker

    environment_variable {
      name  = "REPOSITORY"
      value = data.aws_ecr_repository.images.repository_url
    }
  }

  artifacts {
    type = "NO_ARTIFACTS" # the build itself pushes the image
  }

  logs_config {
    cloudwatch_logs {
      group_name = aws_cloudwatch_log_group.image_build.name
    }
  }
}
