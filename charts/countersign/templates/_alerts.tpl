{{/*
The alerts, as a list. How long a certificate lives is no metric: it is the most that was left of it in a window up to now. So what is
left is compared with a share of that. Of a certificate that lives longer than the window the share is of the window and what is left.

What the active alone shows is another pod's after a change of the active, for a moment of both: of those certificates the latest counts.
*/}}
{{- define "countersign.alerts" -}}
{{- $here := printf "namespace=%q" .Release.Namespace -}}
{{- $expiry := "countersign_certificate_expiry_timestamp_seconds" -}}
{{- $ofActive := printf "max by (namespace, certificate) (%s{certificate=%%q,%s})" $expiry $here -}}
{{- $left := printf "((%s{certificate=~\"svid|serving|pair\"} or %s) - time())" $expiry (printf $ofActive "istiod") -}}
{{- $outputLeft := "(countersign_output_expiry_timestamp_seconds - time())" -}}
{{- $authorityLeft := printf "(%s - time())" (printf $ofActive "authority") -}}
{{- $rootLeft := printf "(%s - time())" (printf $ofActive "root") -}}
{{- $hasAuthority := ne .Values.mode "istiod" -}}
- alert: CountersignCertificateExpiring
  expr: {{ printf "%s < 0.33 * max_over_time(%s[2d:30m])" $left $left | quote }}
  for: 5m
  severity: warning
  summary: "Less than a third of the life of a certificate is left, and it has not been renewed"
- alert: CountersignCertificateExpiresNow
  expr: {{ printf "%s < 0.15 * max_over_time(%s[2d:30m])" $left $left | quote }}
  for: 1m
  severity: critical
  summary: "Less than 15 % of the life of a certificate is left, and it has not been renewed"
- alert: CountersignOutputExpiring
  expr: {{ printf "%s < 0.33 * max_over_time(%s[2d:30m])" $outputLeft $outputLeft | quote }}
  for: 5m
  severity: warning
  summary: "Less than a third of the life of what a socket, a folder or a Secret holds is left"
- alert: CountersignOutputNotVerified
  expr: "time() - countersign_output_verified_timestamp_seconds > 300"
  for: 5m
  severity: warning
  summary: "What a socket, a folder or a Secret holds has not been found right for five minutes"
- alert: CountersignRenewalFailing
  expr: "increase(countersign_svid_renewals_total{outcome=\"failed\"}[15m]) > 0 unless ignoring(outcome) increase(countersign_svid_renewals_total{outcome=\"renewed\"}[15m]) > 0"
  for: 15m
  severity: warning
  summary: "An SVID can't be renewed"
- alert: CountersignSvidRejected
  expr: "increase(countersign_svid_rejections_total[15m]) > 0"
  for: 5m
  severity: warning
  summary: "An authority gives SVIDs that a check does not let through"
- alert: CountersignClockSkew
  expr: "countersign_clock_skew_seconds > 10"
  for: 5m
  severity: warning
  summary: "The newest SVID is not valid yet by the clock of its host"
- alert: CountersignNoActive
  expr: {{ printf "max(countersign_active{%s}) < 1" $here | quote }}
  for: 1m
  severity: critical
  summary: "No replica is active"
- alert: CountersignTwoActive
  expr: {{ printf "sum(countersign_active{%s}) > 1" $here | quote }}
  for: 2m
  severity: critical
  summary: "More than one replica says that it is active"
- alert: CountersignReplicaMissing
  expr: {{ printf "(count(countersign_active{%s}) or vector(0)) < %d" $here (int .Values.replicas) | quote }}
  for: 10m
  severity: warning
  summary: "There are fewer replicas than there should be"
- alert: CountersignRequestsFailing
  expr: {{ printf "sum(rate(countersign_certificate_requests_total{outcome=~\"unavailable|internal|withheld\",%s}[5m])) > 0.05 * sum(rate(countersign_certificate_requests_total{%s}[5m]))" $here $here | quote }}
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
{{- if $hasAuthority }}
- alert: CountersignAuthorityExpiring
  expr: {{ printf "%s < 0.2 * max_over_time(%s[30d:12h])" $authorityLeft $authorityLeft | quote }}
  for: 15m
  severity: warning
  summary: "Less than a fifth of the life of the signing authority is left"
- alert: CountersignStateAltered
  expr: {{ printf "max(countersign_state_altered{%s}) > 0" $here | quote }}
  for: 1m
  severity: critical
  summary: "The stored state is not what the active acknowledged"
- alert: CountersignRootsNotDistributed
  expr: {{ printf "sum by (kind, state) (countersign_root_places{state=~\"conflict|fight|failing\",%s}) > 0" $here | quote }}
  for: 10m
  severity: warning
  summary: "The trust bundle is not where it should be"
- alert: CountersignTrustNotAcknowledged
  expr: {{ printf "sum(countersign_trust_followers{state=\"behind\",%s}) > 0" $here | quote }}
  for: 10m
  severity: warning
  summary: "Somebody who follows the trust bundle has not taken up the newest"
- alert: CountersignFederatedBundleStale
  expr: {{ printf "time() - max by (namespace, trust_domain) (countersign_federated_bundle_fetched_timestamp_seconds{%s}) > 3 * max by (namespace, trust_domain) (countersign_federated_bundle_interval_seconds{%s})" $here $here | quote }}
  for: 5m
  severity: warning
  summary: "The bundle of another trust domain has not been fetched three times in a row"
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
  expr: {{ printf "sum by (kind) (countersign_policy_objects{state=\"wanted\",%s}) - sum by (kind) (countersign_policy_objects{state=\"right\",%s}) > 0" $here $here | quote }}
  for: 15m
  severity: warning
  summary: "Objects for gateways are not what they should be"
{{- end }}
{{- end -}}
