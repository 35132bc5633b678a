// Where the CRD schemas that the charts are validated against come from: downloaded, never built. Checked by go.sum.
module github.com/comfyui-on-eks/tools/crds

go 1.24

require (
	github.com/aws/karpenter-provider-aws v1.14.1
	github.com/kedacore/keda/v2 v2.20.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
	// The newest that Go's module proxy has. Its TargetGroupBinding asks for no less than that of v3.5.0, which only adds
	// fields and no longer requires targetGroupARN.
	sigs.k8s.io/aws-load-balancer-controller v0.0.0-20221203001353-edeb4f1c1312
)
