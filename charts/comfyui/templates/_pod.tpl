{{/* Port that ComfyUI listens on in the pod; a contract with the load balancer's target group. */}}
{{- define "comfyui.port" -}}
8848
{{- end }}

{{/* Port of the metrics in the pod. */}}
{{- define "comfyui.metricsPort" -}}
9848
{{- end }}

{{/* User and group of every container, owner of the files they write and of those that Mountpoint shows. No user of the node. */}}
{{- define "comfyui.uid" -}}
10001
{{- end }}

{{/* Termination grace period in seconds: for jobs, then for uploads. */}}
{{- define "comfyui.graceSeconds" -}}
{{ add .Values.drain.jobSeconds .Values.drain.uploadSeconds }}
{{- end }}

{{/* Where the scripts are mounted. */}}
{{- define "comfyui.scripts" -}}
/opt/comfyui-on-eks
{{- end }}

{{/* The image, exact. Usage: include "comfyui.image" $ */}}
{{- define "comfyui.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Node selector of the pods, as a map. Usage: include "comfyui.nodeSelector" $ | fromYaml */}}
{{- define "comfyui.nodeSelector" -}}
{{- $selector := deepCopy .Values.nodeSelector -}}
{{- if and .Values.gpu.count .Values.pool.name -}}
{{- $_ := set $selector .Values.pool.label .Values.pool.name -}}
{{- end -}}
{{- toYaml $selector -}}
{{- end }}

{{/* Security context of every container: restricted Pod Security and a read-only root file system. */}}
{{- define "comfyui.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Environment of every Python script of the chart. */}}
{{- define "comfyui.pythonEnv" -}}
- name: PYTHONUNBUFFERED
  value: "1"
- name: PYTHONDONTWRITEBYTECODE
  value: "1"
{{- end }}

{{/* Largest number of pods. */}}
{{- define "comfyui.mostReplicas" -}}
{{- $most := ternary .Values.schedule.outside .Values.replicas (gt (len .Values.schedule.windows) 0) | int -}}
{{- range .Values.schedule.windows -}}
{{- $most = max $most (int .replicas) -}}
{{- end -}}
{{- $most -}}
{{- end }}

{{/*
Names that the chart uses for volumes, containers, or environment variables of ComfyUI.
Usage: include "comfyui.ownNames" "volumes" | fromJsonArray
*/}}
{{- define "comfyui.ownNames" -}}
{{- index (dict
      "volumes" (list "scripts" "models" "inputs" "output" "user" "scratch" "uploader")
      "containers" (list "exporter" "wait-for-models" "uploader" "comfyui")
      "variables" (list "POD_NAME" "HOME" "DRAIN_SECONDS" "COMFYUI_URL" "PYTHONUNBUFFERED" "PYTHONDONTWRITEBYTECODE")) . | toJson -}}
{{- end }}

{{/* true if objects of this monitoring.coreos.com/v1 kind are created. Usage: include "comfyui.monitors" (list $ "PodMonitor") */}}
{{- define "comfyui.monitors" -}}
{{- $root := first . -}}
{{- $monitoring := $root.Values.monitoring -}}
{{- $known := $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (last .)) -}}
{{- if and $monitoring.enabled (or (eq $monitoring.objects "always") (and (eq $monitoring.objects "auto") $known)) -}}
true
{{- end -}}
{{- end }}
