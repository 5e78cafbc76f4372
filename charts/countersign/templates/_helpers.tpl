{{/* Names, labels, and what follows from the mode. Whatever is refused beside the schema is refused in "countersign.check". */}}

{{- define "countersign.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is put after it. */}}
{{- define "countersign.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "countersign.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "countersign.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "countersign.selectorLabels" -}}
app.kubernetes.io/name: {{ include "countersign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "countersign.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "countersign.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: countersign
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "countersign.image" -}}
{{- with .Values.image -}}
{{- $name := empty .registry | ternary .repository (printf "%s/%s" .registry .repository) -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "countersign.imagePullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq -}}
imagePullSecrets:
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{- define "countersign.trustDomain" -}}
{{- default .Values.meshTrustDomain .Values.trustDomain -}}
{{- end -}}

{{/* Of the replicas, as istiod signs it. */}}
{{- define "countersign.identity" -}}
{{- printf "spiffe://%s/ns/%s/sa/%s" (include "countersign.trustDomain" .) .Release.Namespace (include "countersign.fullname" .) -}}
{{- end -}}

{{/* Where a workload finds the roots by which it verifies whoever signs for it. */}}
{{- define "countersign.rootsOfWorkloads" -}}
{{- if or .Values.meshCa (eq .Values.mode "istiod") -}}
{{- .Values.rootConfigMap -}}
{{- else -}}
countersign-root-cert
{{- end -}}
{{- end -}}

{{/* "true" where the replicas speak to each other: not in front of istiod without policies. */}}
{{- define "countersign.hasPairPort" -}}
{{- if or (ne .Values.mode "istiod") .Values.policy -}}true{{- end -}}
{{- end -}}

{{/* Same as what a pod has of the kubelet, with a token of an hour: who asks the API server looks for it there. */}}
{{- define "countersign.apiAccess" -}}
projected:
  sources:
  - serviceAccountToken: {path: token, expirationSeconds: 3607}
  - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
  - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end -}}

{{/* A token that proves the service account to an authority of the mesh. */}}
{{- define "countersign.meshToken" -}}
projected:
  sources:
  - serviceAccountToken: {path: istio-token, audience: istio-ca, expirationSeconds: 43200}
{{- end -}}

{{/* What is fixed goes over what is given. */}}
{{- define "countersign.podSecurity" -}}
{{- $fixed := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.podSecurityContext) $fixed) -}}
{{- end -}}

{{- define "countersign.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* A duration such as 1m30s, which the schema has let through: whole seconds, rounded up. */}}
{{- define "countersign.seconds" -}}
{{- $ms := 0 -}}
{{- range regexFindAll "[0-9]+(ms|d|h|m|s)" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $ms = add $ms (mul (trimSuffix $unit . | int64) (get (dict "d" 86400000 "h" 3600000 "m" 60000 "s" 1000 "ms" 1) $unit)) -}}
{{- end -}}
{{- div (add $ms 999) 1000 -}}
{{- end -}}

{{/* Refuses what the schema can't see, with the fix. Every template that depends on the mode begins with it. */}}
{{- define "countersign.check" -}}
{{- $of := .Values -}}
{{- $domain := include "countersign.trustDomain" . -}}
{{- if and (eq $of.mode "self-signed") (not $of.trustDomain) -}}
{{- fail "mode self-signed needs trustDomain: a trust domain of its own, such as gateways.example" -}}
{{- end -}}
{{- if and (eq $of.mode "self-signed") (eq $domain $of.meshTrustDomain) (not $of.meshCa) -}}
{{- fail (printf "trustDomain %s is the mesh's own, which has a CA: choose another one and federate, take mode plugged-in or istiod, or set meshCa if this is the mesh's only CA" $domain) -}}
{{- end -}}
{{- if eq $of.mode "istiod" -}}
{{- if $of.meshCa -}}
{{- fail "meshCa does not go with mode istiod, where istiod is the mesh's CA: leave it out, or take mode plugged-in or self-signed" -}}
{{- end -}}
{{- if $of.clusterTrustBundle -}}
{{- fail "clusterTrustBundle does not go with mode istiod, where the roots are istiod's to publish: leave it out" -}}
{{- end -}}
{{- if ne $domain $of.meshTrustDomain -}}
{{- fail (printf "trustDomain %s is not the mesh's, %s, but mode istiod has its certificates from the mesh's CA: leave trustDomain out, or set meshTrustDomain" $domain $of.meshTrustDomain) -}}
{{- end -}}
{{- end -}}
{{- if not $of.policy -}}
{{- if $of.policyObjects -}}
{{- fail "policyObjects needs policy: set policy to true, or leave policyObjects out" -}}
{{- end -}}
{{- if $of.gatewayIdentities -}}
{{- fail "gatewayIdentities count with policy only: set policy to true, or leave them out" -}}
{{- end -}}
{{- end -}}
{{- if $of.policyObjects -}}
{{- if ne $domain $of.meshTrustDomain -}}
{{- fail (printf "policyObjects needs the mesh's own trust domain, %s, for gateways verify the mesh by the roots of this authority: take another mode, or leave policyObjects out" $of.meshTrustDomain) -}}
{{- end -}}
{{- if not (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "policyObjects needs Kubernetes 1.30, for its ValidatingAdmissionPolicy, and this is %s: leave it out" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would both read the same metrics: enable one of them" -}}
{{- end -}}
{{- if and $of.bundleEndpoint.certificateSecret (not $of.bundleEndpoint.enabled) -}}
{{- fail "bundleEndpoint.certificateSecret is of the bundle endpoint: set bundleEndpoint.enabled to true, or leave it out" -}}
{{- end -}}
{{- $without := dict -}}
{{- if eq $of.mode "istiod" -}}
{{- range list "svidTtl" "maxSvidTtl" "dnsNames" "istiodRevisions" "adopt" "tokenIssuers" "jwtSvidTtl" "federation" -}}
{{- $_ := set $without . "modes plugged-in and self-signed" -}}
{{- end -}}
{{- else -}}
{{- range list "istiodAddresses" "istiodServerName" "istiodRootClusterTrustBundle" "istiodQps" -}}
{{- $_ := set $without . "mode istiod" -}}
{{- end -}}
{{- end -}}
{{- if not $of.policy -}}
{{- $_ := set $without "policyMembership" "policy" -}}
{{- if eq $of.mode "istiod" -}}
{{- $_ := set $without "tokenAudiences" "policy, or modes plugged-in and self-signed," -}}
{{- $_ := set $without "tokenCache" "policy, or modes plugged-in and self-signed," -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $of.settings -}}
{{- with get $without $name -}}
{{- fail (printf "settings.%s counts with %s only: leave it out" $name .) -}}
{{- end -}}
{{- end -}}
{{- with $of.settings.drain -}}
{{- $needed := add 15 (include "countersign.seconds" .) -}}
{{- if gt $needed (int64 $of.terminationGracePeriodSeconds) -}}
{{- fail (printf "settings.drain %s, and 15 s that a replica may need after it, end later than terminationGracePeriodSeconds %d: raise that to %d" . (int $of.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}
{{- $places := list -}}
{{- range $of.gatewaySecrets -}}
{{- $place := printf "%s/%s" .namespace .secret -}}
{{- if has $place $places -}}
{{- fail (printf "gatewaySecrets: %s is for two service accounts: name it once" $place) -}}
{{- end -}}
{{- $places = append $places $place -}}
{{- end -}}
{{- end -}}
