{{/*
An entry of a map merged over its defaults, as JSON. Keys of the entry override, even if they are false, 0 or null.
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
A node class as JSON: an entry merged over its defaults. `modelSync.settings` has the entry's settings merged over those of
nodeClassDefaults, merged over those of all nodes; null is not set.
Usage: include "karpenter-gpu.nodeClass" (list $ $entry) | fromJson
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
