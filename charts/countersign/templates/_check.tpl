{{/* Refuses what the schema can't see, with the fix. Every template that depends on the mode begins with it. */}}
{{- define "countersign.check" -}}
{{- include "countersign.check.mode" . -}}
{{- include "countersign.check.settings" . -}}
{{- include "countersign.check.pods" . -}}
{{- end -}}

{{- define "countersign.check.mode" -}}
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
{{- if not (or $of.serviceAccount.create $of.serviceAccount.name) -}}
{{- fail "serviceAccount.create false needs serviceAccount.name: the ServiceAccount that is there for the replicas" -}}
{{- end -}}
{{- if and $of.jwtSvids (ne $of.mode "istiod") -}}
{{- fail "jwtSvids is of mode istiod, for the other modes sign JWT-SVIDs in any case: leave it out" -}}
{{- end -}}
{{- if not $of.policy -}}
{{- if $of.policyObjects -}}
{{- fail "policyObjects needs policy: set policy to true, or leave policyObjects out" -}}
{{- end -}}
{{- if $of.gatewayIdentities -}}
{{- fail "gatewayIdentities count with policy only: set policy to true, or leave them out" -}}
{{- end -}}
{{- if $of.standaloneGatewayIdentities -}}
{{- fail "standaloneGatewayIdentities count with policy only: set policy to true, or leave them out" -}}
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
{{- if and $of.bundleEndpoint.certificateSecret (not $of.bundleEndpoint.enabled) -}}
{{- fail "bundleEndpoint.certificateSecret is of the bundle endpoint: set bundleEndpoint.enabled to true, or leave it out" -}}
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

{{- define "countersign.check.settings" -}}
{{- $of := .Values -}}
{{- with $of.metrics.prometheusRule.lifeLeft -}}
{{- if le .warning .critical -}}
{{- fail "metrics.prometheusRule.lifeLeft: critical must be less than warning" -}}
{{- end -}}
{{- end -}}
{{- $without := dict -}}
{{- if eq $of.mode "istiod" -}}
{{- range list "svidTtl" "maxSvidTtl" "dnsNames" "istiodRevisions" "adopt" "tokenIssuers" -}}
{{- $_ := set $without . "modes plugged-in and self-signed" -}}
{{- end -}}
{{- if not $of.jwtSvids -}}
{{- range list "jwtSvidTtl" "federation" -}}
{{- $_ := set $without . "jwtSvids, or modes plugged-in and self-signed," -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- range list "istiodAddresses" "istiodServerName" "istiodRootClusterTrustBundle" "istiodQps" -}}
{{- $_ := set $without . "mode istiod" -}}
{{- end -}}
{{- end -}}
{{- if not $of.policyObjects -}}
{{- $_ := set $without "envoyGatewayNamespace" "policyObjects" -}}
{{- end -}}
{{- if not $of.policy -}}
{{- $_ := set $without "policyMembership" "policy" -}}
{{- if and (eq $of.mode "istiod") (not $of.jwtSvids) -}}
{{- $_ := set $without "tokenAudiences" "policy or jwtSvids, or modes plugged-in and self-signed," -}}
{{- $_ := set $without "tokenCache" "policy or jwtSvids, or modes plugged-in and self-signed," -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $of.settings -}}
{{- with get $without $name -}}
{{- fail (printf "settings.%s counts with %s only: leave it out" $name .) -}}
{{- end -}}
{{- end -}}
{{- $flags := include "countersign.flags" . | fromYaml -}}
{{- range $of.extraArgs -}}
{{- $flag := regexFind "^[^=]*" . -}}
{{- if not (hasKey $flags $flag) -}}
{{- fail (printf "extraArgs: `countersign serve` has no flag %s: write one as --NAME=VALUE" $flag) -}}
{{- end -}}
{{- $name := get $flags $flag -}}
{{- if not $name -}}
{{- fail (printf "extraArgs: %s is the chart's to give: leave it out, and take the value that stands for it, or settings" $flag) -}}
{{- end -}}
{{- if hasKey $of.settings $name -}}
{{- fail (printf "extraArgs: %s is settings.%s, which is given too: leave one of them out" $flag $name) -}}
{{- end -}}
{{- with get $without $name -}}
{{- fail (printf "extraArgs: %s counts with %s only: leave it out" $flag .) -}}
{{- end -}}
{{- end -}}
{{- range $at, $variable := $of.extraEnv -}}
{{- if hasPrefix "COUNTERSIGN_" .name -}}
{{- fail (printf "extraEnv: %s is a setting: give the value that stands for it, or settings" .name) -}}
{{- end -}}
{{- range slice $of.extraEnv 0 $at -}}
{{- if eq .name $variable.name -}}
{{- fail (printf "extraEnv: %s is there twice: name it once" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "countersign.check.pods" -}}
{{- $of := .Values -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would both read the same metrics: enable one of them" -}}
{{- end -}}
{{- with $of.metrics -}}
{{- range $name, $monitor := dict "serviceMonitor" .serviceMonitor "podMonitor" .podMonitor "agents.podMonitor" .agents.podMonitor -}}
{{- if and .interval .scrapeTimeout -}}
{{- if gt (include "countersign.seconds" .scrapeTimeout | int64) (include "countersign.seconds" .interval | int64) -}}
{{- fail (printf "metrics.%s.scrapeTimeout %s is longer than its interval %s, which Prometheus refuses: shorten it" $name .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $of.settings.drain -}}
{{- $needed := add 15 (include "countersign.seconds" .) -}}
{{- if gt $needed (int64 $of.terminationGracePeriodSeconds) -}}
{{- fail (printf "settings.drain %s, and 15 s that a replica may need after it, end later than terminationGracePeriodSeconds %d: raise that to %d" . (int $of.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}
{{- with $of.podDisruptionBudget -}}
{{- $stay := toString .minAvailable -}}
{{- if $stay -}}
{{- if ne (toString .maxUnavailable) "" -}}
{{- fail "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable do not go together in Kubernetes: give one of them" -}}
{{- end -}}
{{- $replicas := int64 $of.replicas -}}
{{- $count := hasSuffix "%" $stay | ternary (div (add (mul (trimSuffix "%" $stay | int64) $replicas) 99) 100) (int64 .minAvailable) -}}
{{- if ge $count $replicas -}}
{{- fail (printf "podDisruptionBudget.minAvailable %s is all %d replicas, and no node could be drained: have one stay fewer" $stay $replicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
