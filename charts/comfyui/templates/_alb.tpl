{{/*
Annotations for the AWS Load Balancer Controller, as a map.
Usage: include "comfyui.albAnnotations" $ | fromYaml
*/}}
{{- define "comfyui.albAnnotations" -}}
{{- $ingress := .Values.ingress -}}
alb.ingress.kubernetes.io/scheme: {{ $ingress.scheme }}
# Pods, not nodes: a node would forward to any pod, which would break stickiness.
alb.ingress.kubernetes.io/target-type: ip
alb.ingress.kubernetes.io/load-balancer-attributes: idle_timeout.timeout_seconds={{ int $ingress.idleSeconds }},routing.http.drop_invalid_header_fields.enabled=true
# A pod that ends keeps its connections until its jobs are done.
alb.ingress.kubernetes.io/target-group-attributes: stickiness.enabled=true,stickiness.type=lb_cookie,stickiness.lb_cookie.duration_seconds={{ int $ingress.stickySeconds }},deregistration_delay.timeout_seconds={{ include "comfyui.graceSeconds" . }}
alb.ingress.kubernetes.io/healthcheck-path: /system_stats
alb.ingress.kubernetes.io/healthcheck-interval-seconds: "15"
alb.ingress.kubernetes.io/healthcheck-timeout-seconds: "10"
alb.ingress.kubernetes.io/success-codes: "200"
{{- if $ingress.certificateArn }}
alb.ingress.kubernetes.io/listen-ports: '[{"HTTP": 80}, {"HTTPS": 443}]'
alb.ingress.kubernetes.io/ssl-redirect: "443"
alb.ingress.kubernetes.io/ssl-policy: ELBSecurityPolicy-TLS13-1-2-2021-06
alb.ingress.kubernetes.io/certificate-arn: {{ $ingress.certificateArn }}
{{- else }}
alb.ingress.kubernetes.io/listen-ports: '[{"HTTP": 80}]'
{{- end }}
{{- with $ingress.allowCidrs }}
alb.ingress.kubernetes.io/inbound-cidrs: {{ join "," . }}
{{- end }}
{{- with .Values.ingress.signIn }}
{{- if ne .type "none" }}
alb.ingress.kubernetes.io/auth-type: {{ .type }}
alb.ingress.kubernetes.io/auth-on-unauthenticated-request: authenticate
{{- end }}
{{- if eq .type "cognito" }}
alb.ingress.kubernetes.io/auth-idp-cognito: {{ dict "userPoolARN" .cognito.userPoolArn "userPoolClientID" .cognito.clientId "userPoolDomain" .cognito.domain | toJson | squote }}
{{- else if eq .type "oidc" }}
alb.ingress.kubernetes.io/auth-idp-oidc: {{ .oidc | toJson | squote }}
{{- end }}
{{- end }}
{{- end }}
