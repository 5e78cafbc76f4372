{{/*
The alerts, as a list. How long a certificate lives is no metric: it is the most that has been left, in a window up to now, of the very one
that is there. Those before it end at other times and don't count, however long they lived. So what is left is compared with a share of
that. Of a certificate that lives longer than the window the share is of the window and what is left.

What the active alone shows is another pod's after a change of the active, for a moment of both: of those certificates the latest counts.

Agents are anywhere. With `metrics.agents.namespaces`, alerts about SVIDs and outputs are of those namespaces and the release's own.
*/}}
{{- define "countersign.alerts" -}}
{{- $here := printf "namespace=%q" .Release.Namespace -}}
{{- $none := printf "label_replace(vector(0), \"namespace\", %q, \"\", \"\")" .Release.Namespace -}}
{{- $followed := "" -}}
{{- with .Values.metrics.agents.namespaces -}}
{{- $followed = printf "namespace=~%q" (append . $.Release.Namespace | uniq | join "|") -}}
{{- end -}}
{{- $and := empty $followed | ternary "" (printf ",%s" $followed) -}}
{{- $expiry := "countersign_certificate_expiry_timestamp_seconds" -}}
{{- $ofActive := printf "max by (namespace, certificate) (%s{certificate=%%q,%s}@)" $expiry $here -}}
{{- $ends := printf "(%s{certificate=~\"svid|serving|pair\"%s}@ or %s)" $expiry $and (printf $ofActive "istiod") -}}
{{- $left := include "countersign.alerts.left" $ends -}}
{{- $life := include "countersign.alerts.life" (dict "ends" $ends "window" "2d:5m") -}}
{{- $outputEnds := printf "countersign_output_expiry_timestamp_seconds{%s}@" $followed -}}
{{- $outputLeft := include "countersign.alerts.left" $outputEnds -}}
{{- $outputLife := include "countersign.alerts.life" (dict "ends" $outputEnds "window" "2d:5m") -}}
{{- $authorityEnds := printf "max by (namespace, certificate) (%s{certificate=~\"authority|intermediate\",%s}@)" $expiry $here -}}
{{- $authorityLeft := include "countersign.alerts.left" $authorityEnds -}}
{{- $authorityDue := include "countersign.alerts.due" (dict "ends" $authorityEnds "days" 30) -}}
{{- $endpointDue := include "countersign.alerts.due" (dict "ends" (printf $ofActive "bundle_endpoint") "days" 14) -}}
{{- $federatedEnds := printf "max by (namespace, trust_domain) (countersign_federated_bundle_expiry_timestamp_seconds{%s}@)" $here -}}
{{- $federatedDue := include "countersign.alerts.due" (dict "ends" $federatedEnds "days" 14) -}}
{{- $rootLeft := include "countersign.alerts.left" (printf $ofActive "root") -}}
{{- $hasAuthority := ne .Values.mode "istiod" -}}
- alert: CountersignCertificateExpiring
  expr: {{ printf "%s < 0.33 * %s" $left $life | quote }}
  for: 5m
  severity: warning
  summary: "Less than a third of the life of a certificate is left, and it has not been renewed"
- alert: CountersignCertificateExpiresNow
  expr: {{ printf "%s < 0.15 * %s" $left $life | quote }}
  for: 1m
  severity: critical
  summary: "Less than 15 % of the life of a certificate is left, and it has not been renewed"
- alert: CountersignOutputExpiring
  expr: {{ printf "%s < 0.33 * %s" $outputLeft $outputLife | quote }}
  for: 5m
  severity: warning
  summary: "Less than a third of the life of what a socket, a folder or a Secret holds is left"
- alert: CountersignOutputNotVerified
  expr: {{ printf "time() - countersign_output_verified_timestamp_seconds{%s} > 300" $followed | quote }}
  for: 5m
  severity: warning
  summary: "What a socket, a folder or a Secret holds has not been found right for five minutes"
- alert: CountersignRenewalFailing
  expr: {{ printf "increase(countersign_svid_renewals_total{outcome=\"failed\"%s}[15m]) > 0 unless ignoring(outcome) increase(countersign_svid_renewals_total{outcome=\"renewed\"%s}[15m]) > 0" $and $and | quote }}
  for: 15m
  severity: warning
  summary: "An SVID can't be renewed"
- alert: CountersignSvidRejected
  expr: {{ printf "increase(countersign_svid_rejections_total{%s}[15m]) > 0" $followed | quote }}
  for: 5m
  severity: warning
  summary: "An authority gives SVIDs that a check does not let through"
- alert: CountersignSecretRefused
  expr: {{ printf "increase(countersign_sds_nacks_total{%s}[15m]) > 0" $followed | quote }}
  for: 5m
  severity: warning
  summary: "A gateway's proxy does not accept a secret that it is sent"
- alert: CountersignClockSkew
  expr: {{ printf "countersign_clock_skew_seconds{%s} > 10" $followed | quote }}
  for: 5m
  severity: warning
  summary: "The newest SVID is not valid yet by the clock of its host"
- alert: CountersignNoActive
  expr: {{ printf "(max by (namespace) (countersign_active{%s}) or %s) < 1" $here $none | quote }}
  for: 1m
  severity: critical
  summary: "No replica is active, or none is there"
- alert: CountersignTwoActive
  expr: {{ printf "sum by (namespace) (countersign_active{%s}) > 1" $here | quote }}
  for: 2m
  severity: critical
  summary: "More than one replica says that it is active"
- alert: CountersignReplicaMissing
  expr: {{ printf "(count by (namespace) (countersign_active{%s}) or %s) < %d" $here $none (int .Values.replicas) | quote }}
  for: 10m
  severity: warning
  summary: "There are fewer replicas than there should be"
- alert: CountersignRequestsFailing
  expr: {{ printf "sum by (namespace) (rate(countersign_certificate_requests_total{outcome=~\"unavailable|internal|withheld\",%s}[5m])) > 0.05 * sum by (namespace) (rate(countersign_certificate_requests_total{%s}[5m]))" $here $here | quote }}
  for: 5m
  severity: warning
  summary: "More than one of twenty requests for certificates fails without being at fault itself"
- alert: CountersignRootExpiring
  expr: {{ printf "%s < 90 * 86400" $rootLeft | quote }}
  for: 1h
  severity: warning
  summary: "A root of the trust bundle expires within 90 days"
- alert: CountersignRootExpiresSoon
  expr: {{ printf "%s < 30 * 86400" $rootLeft | quote }}
  for: 1h
  severity: critical
  summary: "A root of the trust bundle expires within 30 days"
- alert: CountersignBundleEndpointExpiring
  expr: {{ $endpointDue | quote }}
  for: 1h
  severity: warning
  summary: "The certificate of the bundle endpoint ends within 14 days, and nobody has replaced it"
{{- if $hasAuthority }}
- alert: CountersignAuthorityExpiring
{{- if eq .Values.mode "self-signed" }}
  # its successor signs from 7 days before the end on
  expr: {{ printf "%s < 6 * 86400" $authorityLeft | quote }}
  severity: critical
  summary: "An authority ends within 6 days, and has not been replaced by itself"
{{- else }}
  expr: {{ $authorityDue | quote }}
  severity: warning
  summary: "An authority ends within 30 days, and nobody has replaced it"
{{- end }}
  for: 1h
{{- end }}
{{- if or $hasAuthority .Values.jwtSvids }}
- alert: CountersignPairAuthorityExpiring
  # the first claim of a term within those days makes another one
  expr: {{ printf "%s < 30 * 86400" (include "countersign.alerts.left" (printf $ofActive "pair_authority")) | quote }}
  for: 1h
  severity: warning
  summary: "What replicas know each other by ends within 30 days, and none has been started anew since"
- alert: CountersignRotationRefused
  expr: {{ printf "max by (namespace, authority) (countersign_rotation_refused{%s}) > 0" $here | quote }}
  for: 10m
  severity: warning
  summary: "An authority comes to its end, and its successor can't be made or used by itself"
- alert: CountersignStateAltered
  expr: {{ printf "max by (namespace) (countersign_state_altered{%s}) > 0" $here | quote }}
  for: 1m
  severity: critical
  summary: "The stored state is not what the active acknowledged"
- alert: CountersignTrustNotAcknowledged
  expr: {{ printf "sum by (namespace) (countersign_trust_followers{state=\"behind\",%s}) > 0" $here | quote }}
  for: 10m
  severity: warning
  summary: "Somebody who follows the trust bundle has not taken up the newest"
- alert: CountersignFederatedBundleStale
  expr: {{ printf "time() - max by (namespace, trust_domain) (countersign_federated_bundle_fetched_timestamp_seconds{%s}) > 3 * max by (namespace, trust_domain) (countersign_federated_bundle_interval_seconds{%s})" $here $here | quote }}
  for: 5m
  severity: warning
  summary: "The bundle of another trust domain has not been fetched three times in a row"
- alert: CountersignFederatedBundleExpiring
  expr: {{ $federatedDue | quote }}
  for: 1h
  severity: warning
  summary: "The last root of another trust domain ends within 14 days, and no other one is known"
{{- end }}
{{- if $hasAuthority }}
- alert: CountersignRootsNotDistributed
  expr: {{ printf "sum by (namespace, kind, state) (countersign_root_places{state=~\"conflict|fight|failing\",%s}) > 0" $here | quote }}
  for: 10m
  severity: warning
  summary: "The trust bundle is not where it should be"
{{- else }}
- alert: CountersignIstiodUnreachable
  expr: {{ printf "countersign_istiod_reachable{%s} == 0" $here | quote }}
  for: 5m
  severity: critical
  summary: "A replica can't reach any istiod"
- alert: CountersignIstiodBadAnswer
  expr: {{ printf "increase(countersign_istiod_requests_total{outcome=\"bad_answer\",%s}[10m]) > 0" $here | quote }}
  for: 1m
  severity: critical
  summary: "istiod gives certificates that a check does not let through"
- alert: CountersignIstiodLimited
  expr: {{ printf "increase(countersign_istiod_requests_total{outcome=\"limited\",%s}[5m]) > 0" $here | quote }}
  for: 15m
  severity: warning
  summary: "More certificates are asked for than istiod is asked to make"
{{- end }}
{{- if eq .Values.mode "plugged-in" }}
- alert: CountersignAuthorityNotTaken
  expr: {{ printf "increase(countersign_authority_reloads_total{outcome=\"refused\",%s}[15m]) > 0" $here | quote }}
  for: 1m
  severity: critical
  summary: "The plugged-in authority has changed, and what is there now is not used"
{{- end }}
{{- if .Values.policyObjects }}
- alert: CountersignPolicyObjectsBehind
  expr: {{ printf "sum by (namespace, kind) (countersign_policy_objects{state=\"wanted\",%s}) - sum by (namespace, kind) (countersign_policy_objects{state=\"right\",%s}) > 0" $here $here | quote }}
  for: 15m
  severity: warning
  summary: "Objects for gateways are not what they should be"
- alert: CountersignPolicyConflict
  expr: {{ printf "max by (namespace, reason) (countersign_gateway_conditions{reason=\"Conflicted\",%s}) > 0" $here | quote }}
  for: 15m
  severity: warning
  summary: "Somebody else's BackendTLSPolicy is for a Service that needs one of ours"
{{- end }}
{{- end -}}
{{/* What is left until the times of a query, in which `@` stands for when it is asked. */}}
{{- define "countersign.alerts.left" -}}
({{ replace "@" "" . }} - time())
{{- end -}}

{{/* Less than so many `days` are left, of what somebody else replaces. One that has been replaced within the window lives for as short as
that: of such a life a fifth. */}}
{{- define "countersign.alerts.due" -}}
{{- $left := include "countersign.alerts.left" .ends -}}
{{- $life := include "countersign.alerts.life" (dict "ends" .ends "window" "60d:12h") -}}
{{ $left }} < {{ .days }} * 86400 unless ({{ $left }} >= 0.2 * {{ $life }} and changes(({{ replace "@" "" .ends }})[60d:12h]) > 0)
{{- end -}}
{{/* The most that has been left in a `window` of what ends at the times that query `ends` gives now. */}}
{{- define "countersign.alerts.life" -}}
max_over_time((({{ replace "@" "" .ends }} == {{ replace "@" " @ end()" .ends }}) - time())[{{ .window }}])
{{- end -}}
