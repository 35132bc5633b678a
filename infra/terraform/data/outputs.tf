output "buckets" {
  description = "Bucket names by kind: models, inputs, outputs."
  value       = { for kind, bucket in aws_s3_bucket.this : kind => bucket.bucket }
}
