{{/* Name of Deployment, Service and, unless told otherwise, ServiceAccount. Usage: include "comfyui.name" $ */}}
{{- define "comfyui.name" -}}
{{- .Release.Name -}}
{{- end }}

{{/* Name of the ServiceAccount. Usage: include "comfyui.serviceAccountName" $ */}}
{{- define "comfyui.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "comfyui.name" .) -}}
{{- end }}

{{/* Name of the ConfigMap with the scripts. Usage: include "comfyui.scriptsName" $ */}}
{{- define "comfyui.scriptsName" -}}
{{- printf "%s-scripts" (include "comfyui.name" .) -}}
{{- end }}

{{/* Name of a PersistentVolumeClaim. Usage: include "comfyui.claimName" (list $ "models") */}}
{{- define "comfyui.claimName" -}}
{{- printf "%s-%s" (include "comfyui.name" (first .)) (last .) -}}
{{- end }}

{{/*
Name of a PersistentVolume, and its volume handle: unique in the cluster, because a namespace holds no dot.
Usage: include "comfyui.volumeName" (list $ "models")
*/}}
{{- define "comfyui.volumeName" -}}
{{- printf "%s.%s" (first .).Release.Namespace (include "comfyui.claimName" .) -}}
{{- end }}
