"""From S3 events in SQS to one SSM command for all GPU nodes."""
