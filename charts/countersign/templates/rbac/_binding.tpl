{{/* Name of what lies outside the release's namespace, where a release of the same name may have its own: no name has a dot in it, so
that none is another one's. Arguments: chart, name (what follows the chart's), namespace; none, and it is of the whole cluster. */}}
{{- define "countersign.nameThere" -}}
{{- $name := printf "%s-%s" (include "countersign.fullname" .chart) .name -}}
{{- eq .chart.Release.Namespace (toString .namespace) | ternary $name (printf "%s.%s" $name .chart.Release.Namespace) -}}
{{- end -}}

{{/* Head of a role, and the binding of it to the replicas, with the same arguments. */}}
{{- define "countersign.role" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty .namespace | ternary "ClusterRole" "Role" }}
metadata:
  name: {{ include "countersign.nameThere" . }}
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
  name: {{ include "countersign.nameThere" . }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "countersign.labels" .chart | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ empty .namespace | ternary "ClusterRole" "Role" }}
  name: {{ include "countersign.nameThere" . }}
subjects:
  - kind: ServiceAccount
    name: {{ include "countersign.serviceAccountName" .chart }}
    namespace: {{ .chart.Release.Namespace }}
{{- end -}}
