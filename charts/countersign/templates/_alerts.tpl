{{/*
The alerts, as a list. What is left of a certificate is compared with a share of its life, from NotBefore to NotAfter; of what others replace
also with a number of days: a fifth of ten years is no news.

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
{{- $ofReplicas := printf "certificate=~%%q,%s" $here -}}
{{- $life := list "countersign_certificate_expiry_timestamp_seconds" "countersign_certificate_not_before_timestamp_seconds" -}}
{{- $outputLife := list "countersign_output_expiry_timestamp_seconds" "countersign_output_not_before_timestamp_seconds" -}}
{{- $federatedLife := list "countersign_federated_bundle_expiry_timestamp_seconds" "countersign_federated_bundle_not_before_timestamp_seconds" -}}
{{- $own := include "countersign.alerts.share" (dict "life" $life "of" (printf "certificate=~\"svid|serving|pair\"%s" $and)) -}}
{{- $istiods := include "countersign.alerts.share" (dict "life" $life "of" (printf $ofReplicas "istiod")) -}}
{{- $share := printf "(%s or max by (namespace, certificate) (%s))" $own $istiods -}}
{{- $outputShare := include "countersign.alerts.share" (dict "life" $outputLife "of" $followed) -}}
{{- $authorities := dict "life" $life "of" (printf $ofReplicas "authority|intermediate") "by" "certificate" -}}
{{- $authorityLeft := include "countersign.alerts.left" $authorities -}}
{{- $authorityDue := include "countersign.alerts.due" (merge (dict "days" 30 "share" 0.2) $authorities) -}}
{{- $pairAuthorityLeft := include "countersign.alerts.left" (dict "life" $life "of" (printf $ofReplicas "pair_authority") "by" "certificate") -}}
{{- $endpointDue := include "countersign.alerts.due" (dict "life" $life "of" (printf $ofReplicas "bundle_endpoint") "by" "certificate" "days" 14 "share" 0.2) -}}
{{- $federatedDue := include "countersign.alerts.due" (dict "life" $federatedLife "of" $here "by" "trust_domain" "days" 14 "share" 0.2) -}}
{{- $roots := dict "life" $life "of" (printf $ofReplicas "last_root") "by" "certificate" -}}
{{- /* the next one of the pair's own is there 30 days before the end */}}
{{- $rootDays := eq .Values.mode "self-signed" | ternary (list 28 14) (list 90 30) -}}
{{- $rootDue := include "countersign.alerts.due" (merge (dict "days" (first $rootDays) "share" 0.2) $roots) -}}
{{- $rootDueNow := include "countersign.alerts.due" (merge (dict "days" (last $rootDays) "share" 0.1) $roots) -}}
{{- $lifeLeft := .Values.metrics.prometheusRule.lifeLeft -}}
{{- $jwtKeyLeft := include "countersign.alerts.left" (dict "life" $life "of" (printf $ofReplicas "jwt_key") "by" "certificate") -}}
{{- $hasAuthority := ne .Values.mode "istiod" -}}
- alert: CountersignCertificateExpiring
  expr: {{ printf "%s < %v" $share $lifeLeft.warning | quote }}
  for: 5m
  severity: warning
  summary: "Less than {{ round (mulf 100 $lifeLeft.warning) 0 }} % of the life of a certificate is left, and it has not been renewed"
- alert: CountersignCertificateExpiresNow
  expr: {{ printf "%s < %v" $share $lifeLeft.critical | quote }}
  for: 1m
  severity: critical
  summary: "Less than {{ round (mulf 100 $lifeLeft.critical) 0 }} % of the life of a certificate is left, and it has not been renewed"
- alert: CountersignOutputExpiring
  expr: {{ printf "%s < %v" $outputShare $lifeLeft.warning | quote }}
  for: 5m
  severity: warning
  summary: "Less than {{ round (mulf 100 $lifeLeft.warning) 0 }} % of the life of what a socket, a folder or a Secret holds is left"
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
{{- if .Values.metrics.agents.podMonitor.enabled }}
# one that starts again and again is there for a moment of each time; a pod that is gone for good is nobody's to miss
- alert: CountersignAgentMissing
  {{- $job := printf "%s/%s-agents" .Release.Namespace (include "countersign.fullname" .) }}
  expr: {{ printf "avg_over_time(up{job=%q}[10m]) < 0.5 and up{job=%q}" $job $job | quote }}
  for: 5m
  severity: warning
  summary: "An agent does not answer, or starts again and again: nobody renews what its gateway has"
{{- end }}
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
  expr: {{ $rootDue | quote }}
  for: 1h
  severity: warning
  summary: "The last root of the trust bundle comes to its end, and no other one is known"
- alert: CountersignRootExpiresSoon
  expr: {{ $rootDueNow | quote }}
  for: 1h
  severity: critical
  summary: "The last root of the trust bundle ends soon, and no other one is known"
- alert: CountersignBundleEndpointExpiring
  expr: {{ $endpointDue | quote }}
  for: 1h
  severity: warning
  summary: "The certificate of the bundle endpoint comes to its end, and nobody has replaced it"
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
  summary: "An authority comes to its end, and nobody has replaced it"
{{- end }}
  for: 1h
{{- end }}
{{- if or $hasAuthority .Values.jwtSvids }}
- alert: CountersignPairAuthorityExpiring
  # the first claim of a term within those days makes another one
  expr: {{ printf "%s < 30 * 86400" $pairAuthorityLeft | quote }}
  for: 1h
  severity: warning
  summary: "What replicas know each other by ends within 30 days, and none has been started anew since"
- alert: CountersignJwtKeyExpiring
  # its successor signs from 5 days before the end on
  expr: {{ printf "%s < 4 * 86400" $jwtKeyLeft | quote }}
  for: 1h
  severity: warning
  summary: "The key of JWT-SVIDs ends within 4 days, and has not been replaced by itself"
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
  summary: "The bundle of another trust domain could not be had of its endpoint or file, three times in a row"
- alert: CountersignFederatedBundleExpiring
  expr: {{ $federatedDue | quote }}
  for: 1h
  severity: warning
  summary: "The last root of another trust domain comes to its end, and no other one is known"
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
{{/* The share that is left of a `life`, two families of when it ends and begins, of the series that `of` picks. */}}
{{- define "countersign.alerts.share" -}}
{{- printf "(%[1]s{%[3]s} - time()) / (%[1]s{%[3]s} - %[2]s{%[3]s})" (first .life) (last .life) .of -}}
{{- end -}}

{{/* What is left of it in seconds, for each label `by`. */}}
{{- define "countersign.alerts.left" -}}
{{- printf "max by (namespace, %s) (%s{%s} - time())" .by (first .life) .of -}}
{{- end -}}

{{/* Less than a `share` of it and less than so many `days` are left. */}}
{{- define "countersign.alerts.due" -}}
max by (namespace, {{ .by }}) ({{ include "countersign.alerts.share" . }}) < {{ .share }} and {{ include "countersign.alerts.left" . }} < {{ .days }} * 86400
{{- end -}}
