{{/* The configuration file of `countersign serve`, as an object. What is of this very pod is in its environment. */}}
{{- define "countersign.config" -}}
{{- $of := .Values -}}
{{- $name := include "countersign.fullname" . -}}
{{- $here := printf "%s.svc" .Release.Namespace -}}
{{- $file := dict "state" "kubernetes" "source" $of.mode "trustDomain" (include "countersign.trustDomain" .) "logFormat" "json" -}}
{{- with $of.listenAddress -}}
{{- $_ := set $file "listen" (printf "%s:15012" .) -}}
{{- $_ := set $file "adminListen" (printf "%s:15020" .) -}}
{{- if include "countersign.hasPairPort" $ -}}
{{- $_ := set $file "pairListen" (printf "%s:15013" .) -}}
{{- end -}}
{{- end -}}
{{- if eq $of.mode "istiod" -}}
{{- $asksGivenOnes := hasKey $of.settings "istiodAddresses" -}}
{{- $_ := set $file "jwtSvids" $of.jwtSvids -}}
{{- if or $of.policy (not $asksGivenOnes) -}}
{{- $_ := set $file "istioNamespace" $of.istioNamespace -}}
{{- end -}}
{{- if not (hasKey $of.settings "istiodRootClusterTrustBundle") -}}
{{- $_ := set $file "rootConfigMap" $of.rootConfigMap -}}
{{- end -}}
{{- else -}}
{{- $_ := set $file "meshTrustDomain" $of.meshTrustDomain -}}
{{- $_ := set $file "meshCa" $of.meshCa -}}
{{- $_ := set $file "istioNamespace" $of.istioNamespace -}}
{{- $_ := set $file "rootConfigMap" $of.rootConfigMap -}}
{{- $_ := set $file "clusterTrustBundle" $of.clusterTrustBundle -}}
{{- $names := list "localhost" (printf "istiod.%s.svc" $of.istioNamespace) (printf "%s.%s" $name $here) (printf "%s-policy.%s" $name $here) -}}
{{- $_ := set $file "dnsNames" (concat $names (default list $of.settings.dnsNames) | uniq) -}}
{{- end -}}
{{- if eq $of.mode "plugged-in" -}}
{{- $_ := set $file "caDir" "/etc/countersign/ca" -}}
{{- end -}}
{{- if include "countersign.hasPairPort" . -}}
{{- $_ := set $file "pairService" (printf "%s-pair.%s:15013" $name $here) -}}
{{- end -}}
{{- $_ := set $file "policy" $of.policy -}}
{{- if $of.policy -}}
{{- $_ := set $file "policyObjects" $of.policyObjects -}}
{{- with $of.gatewayIdentities -}}
{{- $_ := set $file "gatewayIdentities" . -}}
{{- end -}}
{{- with $of.standaloneGatewayIdentities -}}
{{- $_ := set $file "standaloneGatewayIdentities" . -}}
{{- end -}}
{{- end -}}
{{- if $of.bundleEndpoint.enabled -}}
{{- $_ := set $file "bundleEndpoint" (printf "%s:8443" (default "0.0.0.0" $of.listenAddress)) -}}
{{- if $of.bundleEndpoint.certificateSecret -}}
{{- $_ := set $file "bundleEndpointCert" "/etc/countersign/bundle-endpoint/tls.crt" -}}
{{- $_ := set $file "bundleEndpointKey" "/etc/countersign/bundle-endpoint/tls.key" -}}
{{- end -}}
{{- end -}}
{{- with $of.gatewaySecrets -}}
{{- $secrets := list -}}
{{- range . -}}
{{- $secrets = append $secrets (printf "%s/%s=%s" .namespace .secret .serviceAccount) -}}
{{- end -}}
{{- $_ := set $file "gatewaySecrets" $secrets -}}
{{- end -}}
{{- $domains := default list $of.settings.federation -}}
{{- if include "countersign.isBesideTheMesh" . -}}
{{- $named := list -}}
{{- range $domains -}}
{{- $named = append $named .trustDomain -}}
{{- end -}}
{{- if not (has $of.meshTrustDomain $named) -}}
{{- $domains = append $domains (dict "trustDomain" $of.meshTrustDomain "bundleFile" "/var/run/secrets/istio/root-cert.pem") -}}
{{- end -}}
{{- end -}}
{{- with $domains -}}
{{- $_ := set $file "federation" . -}}
{{- end -}}
{{- toYaml (mergeOverwrite $file (deepCopy (omit $of.settings "dnsNames" "federation"))) -}}
{{- end -}}
