{{/* Of each value what values.yaml has, but for maps that are the user's as a whole. Made by `tests/chart.py --write`. */}}
{{- define "countersign.defaults" -}}
{
  "affinity": {},
  "bundleEndpoint": {
    "certificateSecret": "",
    "enabled": false
  },
  "clusterTrustBundle": false,
  "deploymentAnnotations": {},
  "enabled": true,
  "extraArgs": [],
  "extraEnv": [],
  "extraObjects": [],
  "extraVolumeMounts": [],
  "extraVolumes": [],
  "federateMesh": true,
  "fullnameOverride": "",
  "gatewayIdentities": [],
  "gatewaySecrets": [],
  "global": {
    "commonLabels": {},
    "imagePullSecrets": []
  },
  "image": {
    "digest": "",
    "pullPolicy": "IfNotPresent",
    "registry": "",
    "repository": "countersign",
    "tag": ""
  },
  "imagePullSecrets": [],
  "istioNamespace": "istio-system",
  "jwtSvids": false,
  "listenAddress": "",
  "logLevel": "info",
  "meshCa": false,
  "meshTrustDomain": "cluster.local",
  "metrics": {
    "agents": {
      "namespaces": [],
      "podMonitor": {
        "enabled": false,
        "honorLabels": false,
        "interval": "",
        "labels": {},
        "metricRelabelings": [],
        "relabelings": [],
        "scrapeTimeout": ""
      }
    },
    "grafanaDashboard": {
      "enabled": false
    },
    "podMonitor": {
      "enabled": false,
      "honorLabels": false,
      "interval": "",
      "labels": {},
      "metricRelabelings": [],
      "relabelings": [],
      "scrapeTimeout": ""
    },
    "prometheusRule": {
      "additionalRuleLabels": {},
      "disabled": [],
      "enabled": false,
      "labels": {},
      "lifeLeft": {
        "critical": 0.15,
        "warning": 0.33
      },
      "overrides": {},
      "runbookUrl": ""
    },
    "serviceMonitor": {
      "enabled": false,
      "honorLabels": false,
      "interval": "",
      "labels": {},
      "metricRelabelings": [],
      "relabelings": [],
      "scrapeTimeout": ""
    }
  },
  "mode": "istiod",
  "nameOverride": "",
  "networkPolicy": {
    "apiServerPorts": [
      443,
      6443
    ],
    "enabled": true,
    "extraEgress": [],
    "extraIngress": []
  },
  "pluggedIn": {
    "secretName": "cacerts"
  },
  "podAnnotations": {},
  "podDisruptionBudget": {
    "enabled": true,
    "maxUnavailable": "",
    "minAvailable": ""
  },
  "podLabels": {},
  "podSecurityContext": {},
  "policy": true,
  "policyObjects": false,
  "priorityClassName": "",
  "rbac": {
    "create": true
  },
  "replicas": 2,
  "revisionHistoryLimit": 10,
  "rootConfigMap": "istio-ca-root-cert",
  "serviceAccount": {
    "annotations": {},
    "create": true,
    "name": ""
  },
  "settings": {},
  "standaloneGatewayIdentities": [],
  "terminationGracePeriodSeconds": 30,
  "tests": {
    "enabled": true
  },
  "tolerations": [],
  "topologySpreadConstraints": [],
  "trustDomain": ""
}
{{- end -}}
