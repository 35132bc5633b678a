{{/*
An entry of a map over its defaults, as JSON. By key, not by truth: false, 0 and null of an entry count.
Usage: include "karpenter-gpu.entry" (list $.Values.poolDefaults $entry) | fromJson
*/}}
{{- define "karpenter-gpu.entry" -}}
{{- $merged := deepCopy (first .) -}}
{{- range $key, $value := (last . | default dict) -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toJson $merged -}}
{{- end }}
