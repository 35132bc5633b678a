{{/*
A bucket as PersistentVolume and claim through Mountpoint for S3.
Usage: include "comfyui.bucketVolume" (list $ "inputs" $.Values.inputs (list "allow-delete" "allow-overwrite"))
*/}}
{{- define "comfyui.bucketVolume" -}}
{{- $root := index . 0 -}}
{{- $what := index . 1 -}}
{{- $bucket := index . 2 -}}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ include "comfyui.volumeName" (list $root $what) }}
  labels:
    {{- include "comfyui.labels" $root | nindent 4 }}
spec:
  # Required by the API, ignored by the driver.
  capacity:
    storage: 1Ti
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    name: {{ include "comfyui.claimName" (list $root $what) }}
    namespace: {{ $root.Release.Namespace }}
  mountOptions:
    # The region cannot be asked of the instance: pods have no way to its metadata.
    - region {{ $root.Values.aws.region }}
    {{- with $bucket.prefix }}
    - prefix {{ . }}
    {{- end }}
    # Files belong to the user of the pods, who is not the one that mounts.
    - allow-other
    - uid={{ include "comfyui.uid" $root }}
    - gid={{ include "comfyui.uid" $root }}
    {{- range index . 3 }}
    - {{ . }}
    {{- end }}
  csi:
    driver: s3.csi.aws.com
    # Two volumes with one handle would be one mount with the first one's options.
    volumeHandle: {{ include "comfyui.volumeName" (list $root $what) }}
    volumeAttributes:
      bucketName: {{ $bucket.bucket }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "comfyui.claimName" (list $root $what) }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "comfyui.labels" $root | nindent 4 }}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: {{ include "comfyui.volumeName" (list $root $what) }}
  resources:
    requests:
      storage: 1Ti
{{- end }}
