{{/*
The agent in a gateway's pod, for charts that have this one as a dependency. All take a dict with `chart`, the scope of this chart
(`.Subcharts.countersign` in a parent, `.` here). docs/gateways.md has them rendered, for whoever has no such chart.
*/}}

{{/* A native sidecar. `user`: as whom the gateway runs; the kubelet gives the token to nobody else. `socketDir`, `socketName` and
`socketVolume`: where the gateway looks for the socket, if not in the place of `countersign render gateway`. `adminPort`: where 15020 is taken.
`env` and `resources`: as in a container, for OTEL_… and the like, and in place of what stands here. */}}
{{- define "countersign.agent.container" -}}
{{- include "countersign.defaulted" .chart -}}
{{- $chart := .chart -}}
{{- $user := default 65532 .user -}}
{{- $admin := default 15020 .adminPort -}}
{{- $service := printf "%s.%s.svc:15012" (include "countersign.fullname" $chart) $chart.Release.Namespace -}}
name: countersign-agent
image: {{ include "countersign.image" $chart }}
imagePullPolicy: {{ $chart.Values.image.pullPolicy }}
args:
- agent
- --trust-domain={{ include "countersign.trustDomain" $chart }}
- --socket={{ default "/var/run/countersign" .socketDir }}/{{ default "workload.sock" .socketName }}
- --root-config-map={{ include "countersign.rootsOfWorkloads" $chart }}
- --admin-listen={{ default "0.0.0.0" $chart.Values.listenAddress }}:{{ $admin }}
- --log-format=json
{{- if eq $chart.Values.mode "istiod" }}
- --ca-address=istiod.{{ $chart.Values.istioNamespace }}.svc:15012
- --ca-address={{ $service }}
- --ca-identity={{ include "countersign.identity" $chart }}
{{- else }}
- --ca-address={{ $service }}
{{- end }}
{{- if $chart.Values.policy }}
- --policy-address={{ include "countersign.fullname" $chart }}-policy.{{ $chart.Release.Namespace }}.svc:15012
{{- end }}
restartPolicy: Always
{{- with .env }}
env:
{{- toYaml . | nindent 0 }}
{{- end }}
ports:
- {name: countersign, containerPort: {{ $admin }}, protocol: TCP}
# answers once the socket accepts, be there an SVID or not: other routes don't wait for one
startupProbe:
  httpGet: {path: /livez, port: {{ $admin }}}
  periodSeconds: 1
  failureThreshold: 60
resources:
{{- with .resources }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 64Mi}
{{- end }}
securityContext:
  {{- include "countersign.containerSecurity" $chart | nindent 2 }}
  runAsUser: {{ $user }}
  runAsGroup: {{ $user }}
volumeMounts:
- {name: {{ default "countersign-socket" .socketVolume }}, mountPath: {{ default "/var/run/countersign" .socketDir }}}
- {name: countersign-token, mountPath: /var/run/secrets/tokens, readOnly: true}
- {name: countersign-api, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
- {name: countersign-roots, mountPath: /var/run/secrets/istio, readOnly: true}
{{- end -}}

{{/* A list of volumes. `socketVolume` as above. */}}
{{- define "countersign.agent.volumes" -}}
{{- include "countersign.defaulted" .chart -}}
- name: {{ default "countersign-socket" .socketVolume }}
  emptyDir: {medium: Memory}
- name: countersign-token
  {{- include "countersign.meshToken" .chart | nindent 2 }}
- name: countersign-api
  {{- include "countersign.apiAccess" .chart | nindent 2 }}
# before the mesh is there, there is no such ConfigMap, and pods must start all the same
- name: countersign-roots
  configMap: {name: {{ include "countersign.rootsOfWorkloads" .chart }}, optional: true}
{{- end -}}

{{/* What the gateway's own container mounts. `socketDir` and `socketVolume` as above. */}}
{{- define "countersign.agent.volumeMount" -}}
{name: {{ default "countersign-socket" .socketVolume }}, mountPath: {{ default "/var/run/countersign" .socketDir }}, readOnly: true}
{{- end -}}

{{/* What the agent may do: follow the roots. `namespace` and `serviceAccount` are the gateway's. Each account has a role of its own. */}}
{{- define "countersign.agent.rbac" -}}
{{- include "countersign.defaulted" .chart -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: countersign-agent-{{ .serviceAccount }}
  namespace: {{ .namespace }}
rules:
  # By name: a list or a watch of anything else is refused.
  - apiGroups: [""]
    resources: [configmaps]
    resourceNames: [{{ include "countersign.rootsOfWorkloads" .chart }}]
    verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: countersign-agent-{{ .serviceAccount }}
  namespace: {{ .namespace }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: countersign-agent-{{ .serviceAccount }}
subjects:
  - kind: ServiceAccount
    name: {{ .serviceAccount }}
    namespace: {{ .namespace }}
{{- end -}}
