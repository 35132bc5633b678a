{{/* Text as one word of a shell command. Usage: include "karpenter-gpu.quoted" $text */}}
{{- define "karpenter-gpu.quoted" -}}
'{{ . | toString | replace "'" "'\\''" }}'
{{- end }}

{{/*
Variables of install-model-sync.sh, as shell assignments. MODEL_SYNC_SETTINGS is the settings file of the node program: lines
NAME=value, lists as JSON (docs/reference/model-sync.md). Usage: include "karpenter-gpu.settings" (list $ $nodeClass)
*/}}
{{- define "karpenter-gpu.settings" -}}
{{- $sync := (first .).Values.modelSync -}}
AWS_REGION={{ include "karpenter-gpu.quoted" $sync.region }}
ARTIFACTS_BUCKET={{ include "karpenter-gpu.quoted" $sync.artifactsBucket }}
{{- range $name, $file := $sync.files }}
{{ upper $name }}_KEY={{ include "karpenter-gpu.quoted" $file.key }}
{{ upper $name }}_SHA256={{ include "karpenter-gpu.quoted" $file.sha256 }}
{{- end }}
{{- $lines := list (printf "MODELS_BUCKET=%s" $sync.bucket) (printf "AWS_REGION=%s" $sync.region) }}
{{- range $name, $value := (last .).modelSync.settings }}
{{- $text := "" }}
{{- if kindIs "slice" $value }}
{{- $text = ternary (toRawJson $value) "" (gt (len $value) 0) }}
{{- else }}
{{- $text = ternary $value (int64 $value | toString) (kindIs "string" $value) }}
{{- end }}
{{- if $text }}
{{- $lines = append $lines (printf "%s=%s" ($name | snakecase | upper) $text) }}
{{- end }}
{{- end }}
MODEL_SYNC_SETTINGS={{ include "karpenter-gpu.quoted" (join "\n" $lines) }}
{{- end }}

{{/*
User data of a node class, always as MIME: Karpenter would take other text that is valid YAML for a NodeConfig.
Usage: include "karpenter-gpu.userData" (list $ $nodeClass)
*/}}
{{- define "karpenter-gpu.userData" -}}
{{- $root := first . -}}
{{- $class := last . -}}
{{- $boundary := "==comfyui-on-eks==" -}}
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="{{ $boundary }}"
{{ with $class.nodeConfig }}
--{{ $boundary }}
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  {{- toYaml . | nindent 2 }}
{{ end }}
--{{ $boundary }}
Content-Type: text/x-shellscript; charset="utf-8"

#!/bin/bash
{{ include "karpenter-gpu.settings" . }}
{{ $root.Files.Get "files/install-model-sync.sh" | trimPrefix "#!/bin/bash\n" }}
{{- range $class.extraUserData }}
--{{ $boundary }}
Content-Type: {{ .contentType }}

{{ .content }}
{{- end }}
--{{ $boundary }}--
{{- end }}
