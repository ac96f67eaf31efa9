{{- define "labels" -}}
app.kubernetes.io/name: gl-k8s-integrator
{{- end }}

{{- define "meta" -}}
namespace: gl-k8s-integrator
labels:
  {{- include "labels" . | nindent 2 }}
{{- end }}

{{/* Names that the program, its roles and its policies have fixed can't be changed by a release. */}}
{{- define "check" -}}
{{- if ne .Release.Namespace "gl-k8s-integrator" }}
{{- fail "the namespace has to be gl-k8s-integrator, which the admission policies name: --namespace gl-k8s-integrator" }}
{{- end }}
{{- $config := .Values.config }}
{{- if dig "cluster" "kubeconfig" "" $config }}
{{- fail "config.cluster.kubeconfig: leave it out, a pod has the credentials of its ServiceAccount" }}
{{- end }}
{{- if and (eq (dig "rbacsync" "deletion" "policy" "" $config) "delete") (not .Values.namespaceDeletion) }}
{{- fail "config.rbacsync.deletion.policy is delete: set namespaceDeletion: true, too" }}
{{- end }}
{{- if and (dig "rbacsync" "templates" "folder" "" $config) (not .Values.templates) }}
{{- fail "config.rbacsync.templates is set: set templates: true, too" }}
{{- end }}
{{- if and .Values.certManager.enabled .Values.secrets.webhooks }}
{{- fail "certManager.enabled makes the Secret for the webhooks: leave secrets.webhooks empty" }}
{{- end }}
{{- if and .Values.certManager.enabled (not .Values.hostNetwork) (not .Values.service.clusterIP) }}
{{- fail "certManager.enabled: set service.clusterIP, which the certificate is for" }}
{{- end }}
{{- if and .Values.certManager.hooks.dnsNames (or .Values.secrets.hooks (not .Values.certManager.hooks.issuerRef)) }}
{{- fail "certManager.hooks: set issuerRef, and leave secrets.hooks empty" }}
{{- end }}
{{- if and .Values.certManager.enabled .Values.protectMetrics .Values.secrets.metrics }}
{{- fail "certManager.enabled makes the Secret for the metrics: leave secrets.metrics empty" }}
{{- end }}
{{- range $name, $port := .Values.ports }}
{{- $address := dig "listeners" $name "address" "" $config }}
{{- if and $address (not (hasSuffix (printf ":%v" $port) $address)) }}
{{- fail (printf "config.listeners.%s.address: its port has to be ports.%s (%v), which pods and Service have" $name $name $port) }}
{{- end }}
{{- end }}
{{- if and .Values.config (not .Values.web) (or (dig "listeners" "web" "address" "" $config) (dig "web" "clientID" "" $config)) }}
{{- fail "config.web is set: set web: true, too" }}
{{- end }}
{{- if and .Values.ingress.enabled (or (not .Values.web) (not (dig "web" "url" "" $config))) }}
{{- fail "ingress.enabled: set web: true, and config.web.url to the URL of the page" }}
{{- end }}
{{- $metrics := include "metrics" . | fromJson }}{{/* there no NetworkPolicy keeps others from them */}}
{{- if and .Values.serviceMonitor.enabled .Values.hostNetwork (or (hasPrefix "127." $metrics.address) (not $metrics.tokenFile)) }}
{{- fail "serviceMonitor with hostNetwork: set protectMetrics, and config.listeners.metrics.address to one that Prometheus reaches, such as 0.0.0.0:9090" }}
{{- end }}
{{- end }}

{{/* The ClusterRoles that may be bound beside those of the manifests, as a JSON list. */}}
{{- define "clusterRoles" -}}
{{- $roles := .Values.clusterRoles }}
{{- range concat (dig "authz" "roles" (list) .Values.config) (dig "authz" "extra" (list) .Values.config) }}
{{- $roles = append $roles .clusterRole }}
{{- end }}
{{- range $roles }}
{{- if or (eq . "cluster-admin") (not (regexMatch "^[^'\\\\/%]+$" .)) }}
{{- fail (printf "%q is no ClusterRole that tenants can have" .) }}
{{- end }}
{{- end }}
{{- $roles | uniq | toJson }}
{{- end }}

{{/* The listener of metrics and health, as the configuration has it. */}}
{{- define "metrics" -}}
{{- (include "config" . | fromYaml).listeners.metrics | toJson }}
{{- end }}

{{- define "webhooksSecret" -}}
{{- ternary "gl-k8s-integrator-webhooks" .Values.secrets.webhooks .Values.certManager.enabled }}
{{- end }}

{{- define "hooksSecret" -}}
{{- ternary "gl-k8s-integrator-hooks" .Values.secrets.hooks (not (empty .Values.certManager.hooks.dnsNames)) }}
{{- end }}

{{- define "metricsSecret" -}}
{{- ternary "gl-k8s-integrator-metrics" .Values.secrets.metrics (and .Values.certManager.enabled .Values.protectMetrics) }}
{{- end }}

{{/* The configuration with what the chart fills in. What config says goes before. */}}
{{- define "config" -}}
{{- $dir := "/etc/gl-k8s-integrator" }}
{{- $host := ternary "127.0.0.1" "0.0.0.0" .Values.hostNetwork }}
{{- $webhooks := dict "address" (printf "%s:%v" $host .Values.ports.webhooks)
      "certFile" (printf "%s/tls.crt" $dir) "keyFile" (printf "%s/tls.key" $dir) "clientCAFile" (printf "%s/webhook-ca.crt" $dir) }}
{{- $metrics := dict "address" (printf "%s:%v" $host .Values.ports.metrics) }}
{{- if .Values.protectMetrics }}
{{- $metrics = merge $metrics (dict "certFile" (printf "%s/metrics.crt" $dir) "keyFile" (printf "%s/metrics.key" $dir) "tokenFile" (printf "%s/metrics-token" $dir)) }}
{{- end }}
{{- $listeners := dict "webhooks" $webhooks "metrics" $metrics }}
{{- if .Values.hooks }}
{{- $_ := set $listeners "hooks" (dict "address" (printf "0.0.0.0:%v" .Values.ports.hooks)
      "certFile" (printf "%s/hooks.crt" $dir) "keyFile" (printf "%s/hooks.key" $dir) "secretFile" (printf "%s/hook-secret" $dir)) }}
{{- end }}
{{- if .Values.web }}
{{- $_ := set $listeners "web" (dict "address" (printf "0.0.0.0:%v" .Values.ports.web) "certFile" (printf "%s/web.crt" $dir) "keyFile" (printf "%s/web.key" $dir)) }}
{{- end }}
{{- if and (dig "authn" "disabled" false .Values.config) (dig "authz" "explain" "disabled" false .Values.config) }}
{{- $_ := unset $listeners "webhooks" }}{{/* nothing is served there */}}
{{- end }}
{{- $gitlab := dict "readTokenFile" (printf "%s/read-token" $dir) }}
{{- if ne (dig "ci" "delivery" "variables" .Values.config) "none" }}
{{- $_ := set $gitlab "writeTokenFile" (printf "%s/write-token" $dir) }}
{{- end }}
{{- $config := dict "apiVersion" "gl-k8s-integrator/v1alpha1" "kind" "Config" "gitlab" $gitlab "listeners" $listeners }}
{{- if and .Values.web (dig "web" "clientID" "" .Values.config) }}
{{- $_ := set $config "web" (dict "clientSecretFile" (printf "%s/web-client-secret" $dir) "sessionKeyFile" (printf "%s/session-key" $dir)) }}
{{- end }}
{{- if and (not .Values.hostNetwork) (not (dig "authz" "explain" "disabled" false .Values.config)) }}
{{- $_ := set $config "authz" (dict "explain" (dict "replicas" .Values.replicas)) }}
{{- end }}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}

{{- define "image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}
