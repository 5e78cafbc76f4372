{{/* Head of a role, and the binding of it to the replicas. Arguments: chart, name (what follows the chart's), namespace; none, and
it is one of the whole cluster. */}}
{{- define "countersign.role" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty .namespace | ternary "ClusterRole" "Role" }}
metadata:
  name: {{ include "countersign.fullname" .chart }}-{{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "countersign.labels" .chart | nindent 4 }}
{{- end -}}

{{- define "countersign.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty .namespace | ternary "ClusterRoleBinding" "RoleBinding" }}
metadata:
  name: {{ include "countersign.fullname" .chart }}-{{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "countersign.labels" .chart | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ empty .namespace | ternary "ClusterRole" "Role" }}
  name: {{ include "countersign.fullname" .chart }}-{{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "countersign.fullname" .chart }}
    namespace: {{ .chart.Release.Namespace }}
{{- end -}}
