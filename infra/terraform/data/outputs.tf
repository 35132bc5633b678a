output "buckets" {
  description = "Bucket names by kind: models, inputs, outputs."
  value       = { for kind, bucket in aws_s3_bucket.this : kind => bucket.bucket }
}

output "image_repository" {
  description = "Registry address of the ComfyUI image, without a tag."
  value       = aws_ecr_repository.images.repository_url
}
