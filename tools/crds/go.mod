// Where the CRD schemas that the charts are validated against come from: downloaded, never built. Checked by go.sum.
module github.com/comfyui-on-eks/tools/crds

go 1.24

require (
	github.com/aws/karpenter-provider-aws v1.14.1
	github.com/kedacore/keda/v2 v2.20.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
