{{/* Name of Deployment and Service, and default name of the ServiceAccount. Usage: include "comfyui.name" $ */}}
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
Name of a PersistentVolume, and its volume handle: unique in the cluster, because namespaces cannot contain dots.
Usage: include "comfyui.volumeName" (list $ "models")
*/}}
{{- define "comfyui.volumeName" -}}
{{- printf "%s.%s" (first .).Release.Namespace (include "comfyui.claimName" .) -}}
{{- end }}

{{/*
Name of the models' volume. The source is part of it, because the source of a volume is immutable: another source is another
volume. Usage: include "comfyui.modelsVolume" $
*/}}
{{- define "comfyui.modelsVolume" -}}
{{- ternary "models" (printf "models-%s" .Values.models.source) (eq .Values.models.source "hostPath") -}}
{{- end }}
