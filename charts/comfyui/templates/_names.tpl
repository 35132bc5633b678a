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

{{/*
What the models' volume is called. The source is a part of it, because a volume cannot change what it is made of: another
source is another volume. Usage: include "comfyui.modelsVolume" $
*/}}
{{- define "comfyui.modelsVolume" -}}
{{- ternary "models" (printf "models-%s" .Values.models.source) (eq .Values.models.source "hostPath") -}}
{{- end }}
