{{/* Names, labels, and what follows from the mode. */}}

{{/* Gives the values that are not there what values.yaml has: of a release from before them, or null in a parent's. Comes before anything that
reads values. */}}
{{- define "countersign.defaulted" -}}
{{- include "countersign.defaulted.in" (list .Values (include "countersign.defaults" . | fromYaml)) -}}
{{- end -}}

{{- define "countersign.defaulted.in" -}}
{{- $values := first . -}}
{{- range $name, $default := last . -}}
{{- $value := index $values $name -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := set $values $name $default -}}
{{- else if kindIs "map" $default -}}
{{- include "countersign.defaulted.in" (list $value $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

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

{{- define "countersign.serviceAccountName" -}}
{{- default (include "countersign.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "countersign.selectorLabels" -}}
app.kubernetes.io/name: {{ include "countersign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* By which the replicas' pods are found. */}}
{{- define "countersign.podLabels" -}}
{{ include "countersign.selectorLabels" . }}
app.kubernetes.io/component: pair
{{- end -}}

{{- define "countersign.labels" -}}
{{- include "countersign.labelsWith" (list . dict) -}}
{{- end -}}

{{/* And more, of which those of `global.commonLabels` take none away. What this object is found by is nobody's to change. */}}
{{- define "countersign.labelsWith" -}}
{{- $chart := index . 0 -}}
{{- $found := include "countersign.selectorLabels" $chart | fromYaml -}}
{{- $made := dict "helm.sh/chart" (printf "%s-%s" $chart.Chart.Name $chart.Chart.Version | replace "+" "_") "app.kubernetes.io/version" $chart.Chart.AppVersion "app.kubernetes.io/managed-by" $chart.Release.Service -}}
{{- merge $found $made (default dict (index . 1)) $chart.Values.global.commonLabels (dict "app.kubernetes.io/part-of" "countersign") | toYaml -}}
{{- end -}}

{{- define "countersign.outsideTheMesh" -}}
sidecar.istio.io/inject: "false"
istio.io/dataplane-mode: none
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

{{/* "true" where the replicas sign for a trust domain of their own, so that gateways need the mesh's roots beside theirs. */}}
{{- define "countersign.isBesideTheMesh" -}}
{{- if and .Values.federateMesh (not (or (eq .Values.mode "istiod") .Values.meshCa (eq (include "countersign.trustDomain" .) .Values.meshTrustDomain))) -}}true{{- end -}}
{{- end -}}

{{/* Of the replicas, as istiod signs it. */}}
{{- define "countersign.identity" -}}
{{- printf "spiffe://%s/ns/%s/sa/%s" (include "countersign.trustDomain" .) .Release.Namespace (include "countersign.serviceAccountName" .) -}}
{{- end -}}

{{/* Where a workload finds the roots by which it verifies whoever signs for it. */}}
{{- define "countersign.rootsOfWorkloads" -}}
{{- if or .Values.meshCa (eq .Values.mode "istiod") -}}
{{- .Values.rootConfigMap -}}
{{- else -}}
countersign-root-cert
{{- end -}}
{{- end -}}

{{/* "true" where the replicas speak to each other: not in front of istiod without policies and JWT-SVIDs. */}}
{{- define "countersign.hasPairPort" -}}
{{- if or (ne .Values.mode "istiod") .Values.policy .Values.jwtSvids -}}true{{- end -}}
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
