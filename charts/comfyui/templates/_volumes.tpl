{{/*
A static PersistentVolume and its claim.
Usage: include "comfyui.staticVolume" (list $ "inputs" "ReadWriteMany" (dict "csi" (dict …) "mountOptions" (list …)))
*/}}
{{- define "comfyui.staticVolume" -}}
{{- $root := index . 0 -}}
{{- $what := index . 1 -}}
{{- $mode := index . 2 -}}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ include "comfyui.volumeName" (list $root $what) }}
  labels:
    {{- include "comfyui.labels" $root | nindent 4 }}
spec:
  # Required by the API, but ignored.
  capacity:
    storage: 1Ti
  accessModes: [{{ $mode }}]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    name: {{ include "comfyui.claimName" (list $root $what) }}
    namespace: {{ $root.Release.Namespace }}
  {{- toYaml (index . 3) | nindent 2 }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "comfyui.claimName" (list $root $what) }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "comfyui.labels" $root | nindent 4 }}
spec:
  accessModes: [{{ $mode }}]
  storageClassName: ""
  volumeName: {{ include "comfyui.volumeName" (list $root $what) }}
  resources:
    requests:
      storage: 1Ti
{{- end }}

{{/*
A bucket as the source of a static volume, through Mountpoint for S3.
Usage: include "comfyui.bucket" (list $ "inputs" $.Values.inputs (list "allow-delete") (dict "cache" "emptyDir")) | fromYaml
*/}}
{{- define "comfyui.bucket" -}}
{{- $root := index . 0 -}}
{{- $bucket := index . 2 -}}
mountOptions:
  # Mountpoint cannot ask the instance for its region: pods cannot reach the metadata service.
  - region {{ $root.Values.aws.region }}
  {{- with $bucket.prefix }}
  - prefix {{ . }}
  {{- end }}
  # Files belong to the user of the pods, which is not the user that mounts.
  - allow-other
  - uid={{ include "comfyui.uid" $root }}
  - gid={{ include "comfyui.uid" $root }}
  {{- range index . 3 }}
  - {{ . }}
  {{- end }}
csi:
  driver: s3.csi.aws.com
  # Two volumes with the same handle would share one mount, with the options of the first.
  volumeHandle: {{ include "comfyui.volumeName" (list $root (index . 1)) }}
  volumeAttributes:
    bucketName: {{ $bucket.bucket }}
    {{- with index . 4 }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
