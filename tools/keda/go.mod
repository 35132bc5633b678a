module github.com/comfyui-on-eks/tools/keda

go 1.26.0

tool github.com/kedacore/keda/v2/cmd/operator

require github.com/kedacore/keda/v2 v2.20.2
