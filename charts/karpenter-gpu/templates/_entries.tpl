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

{{/*
A node class as JSON: an entry over the defaults, and in `modelSync.settings` its settings over those of the defaults over
those of all nodes. There a key that is null is not set. Usage: include "karpenter-gpu.nodeClass" (list $ $entry) | fromJson
*/}}
{{- define "karpenter-gpu.nodeClass" -}}
{{- $values := (first .).Values -}}
{{- $entry := last . | default dict -}}
{{- $settings := dict -}}
{{- range list $values.modelSync $values.nodeClassDefaults.modelSync (get $entry "modelSync" | default dict) -}}
{{- range $name, $value := .settings -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $class := include "karpenter-gpu.entry" (list $values.nodeClassDefaults $entry) | fromJson -}}
{{- set $class "modelSync" (dict "settings" $settings) | toJson -}}
{{- end }}
