{{/* Name of a NodePool. Usage: include "karpenter-gpu.nodePoolName" (list $ $pool) */}}
{{- define "karpenter-gpu.nodePoolName" -}}
{{- printf "%s-%s" (first .).Release.Name (last .) -}}
{{- end }}

{{/* Name of an EC2NodeClass. Usage: include "karpenter-gpu.nodeClassName" (list $ $class) */}}
{{- define "karpenter-gpu.nodeClassName" -}}
{{- printf "%s-%s" (first .).Release.Name (last .) -}}
{{- end }}
