{{/* Labels that select the pods; immutable. Usage: include "comfyui.selectorLabels" $ */}}
{{- define "comfyui.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. Usage: include "comfyui.labels" $ */}}
{{- define "comfyui.labels" -}}
{{ include "comfyui.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
