"""The AWS resources of a deployment: Terraform's roots, the Lambda function, and the values files for the charts."""
