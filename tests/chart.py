#!/usr/bin/env python3
"""Checks the chart: rendered with each set of values, refused with each bad one, its rights those of the plain files, all of it taken by
a real API server and by the program itself, its pods running as processes there, and what is made from it in the docs as it should be.

helm is built once and kept with the other peers. COUNTERSIGN_TEST_BINARY names the program; the release build if not. `--write` makes
the values table, the gateways' patches and the schema of `settings` anew.
"""

import sys

sys.dont_write_bytecode = True

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from chart_checks import conform, documents, live, mesh, nulls, objects, pair, traffic, uninstall, writes
from chart_checks.cluster import Cluster
from chart_checks.helm import CHART, Broken, copy_chart, provide, render, side_by_side
from chart_checks.helm import documents as read
from chart_checks.sets import REFUSED, SETS, Set
from run import RELEASE, Failed, say

ROLLING = """type: RollingUpdate
    # a new replica is ready before an old one leaves
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}"""
# Each breaks one thing in a copy of the chart, by a text in a file and what takes its place; the check of that name must say so.
BREAKS: List[Tuple[str, str, str, str, str]] = [
    ("stable", "templates/configmap.yaml", "data:", "data:\n  at: {{ now | quote }}", "calls now"),
    ("stable", "Chart.yaml", "appVersion: ", "appVersion: 9", "appVersion of the chart is not"),
    ("stable", "Chart.yaml", "\nversion: ", "\nversion: 9", "version of the chart is not"),
    ("stable", ".helmignore", "rbac*.yaml", "", "the package holds the plain files"),
    ("stable", ".helmignore", "*.swp", "README.md", "the package lacks ['README.md']"),
    ("stable", "templates/services.yaml", "{{- $name :=", "{{- $other :=", "lint"),
    ("same bytes", "templates/configmap.yaml", "data:", "data:\n  at: {{ randAlpha 9 }}", "gives other bytes"),
    ("secrets", "templates/configmap.yaml", "kind: ConfigMap", "kind: Secret", "neither creates nor owns Secrets"),
    ("secrets", "templates/configmap.yaml", "data:", "data:\n  x: 'password: x'", "something secret"),
    ("hooks", "templates/tests/certificate.yaml", "helm.sh/hook: test", "helm.sh/hook: post-install", "is a hook of post-install"),
    ("rights", "templates/rbac/replica.yaml", "verbs: [get, update]", "verbs: [get, list, update]", "is not as in the plain files"),
    ("rights", "templates/rbac/policy.yaml", "apiGroups: [events.k8s.io]", "apiGroups: ['*']", "is not as in the plain files"),
    ("rights", "templates/rbac/policy-objects.yaml", "variables.marked", "true", "is not as in the plain files"),
    ("rights", "templates/rbac/cluster-trust-bundle.yaml", ".Values.meshCa | ternary \"istio.io/istiod-ca\" $own", "$own",
     "is not as in"),
    ("rights", "templates/rbac/istiod.yaml", "{{- if or .Values.policy .Values.jwtSvids }}", "{{- if true }}", "other objects than in the plain files"),
    ("rights", "templates/rbac/policy.yaml", "and .Values.rbac.create .Values.policy", ".Values.policy", "other objects than in the plain files"),
    ("rights", "templates/rbac/_binding.tpl", "printf \"%s.%s\" $name .chart.Release.Namespace", "$name", "other objects than in the plain files"),
    ("rights", "templates/rbac/_binding.tpl", "namespace: {{ .chart.Release.Namespace }}", "namespace: countersign", "is not as in"),
    ("services", "templates/services.yaml", "  publishNotReadyAddresses: true\n", "", "leads to nobody"),
    ("mesh roots", "templates/_config.tpl", "append $domains (dict", "append list (dict", "of what the values federate with"),
    ("mesh roots", "templates/_config.tpl", "if not (has $of.meshTrustDomain $named)", "if true", "nobody asked for"),
    ("mesh roots", "templates/_helpers.tpl", "(eq (include \"countersign.trustDomain\" .) .Values.meshTrustDomain)", "true", "gateways get no roots of cluster.local"),
    ("mesh roots", "templates/deployment.yaml", "configMap: {name: {{ .Values.rootConfigMap }}, optional: true}",
     "configMap: {name: {{ .Values.rootConfigMap }}}", "and not from"),
    ("mesh roots", "templates/deployment.yaml", "mountPath: /var/run/secrets/istio,", "mountPath: /var/run/istio,", "and not from"),
    ("addresses", "templates/_config.tpl", '"%s:8443" (default "0.0.0.0" $of.listenAddress)', '"0.0.0.0:8443"', "it listens at"),
    ("addresses", "templates/_config.tpl", '(printf "%s:15020" .)', '"0.0.0.0:15020"', "it listens at"),
    ("addresses", "templates/_agent.tpl", '{{ default "0.0.0.0" $chart.Values.listenAddress }}', "0.0.0.0", "it listens at"),
    ("addresses", "templates/tests/certificate.yaml", '{{ default "0.0.0.0" .Values.listenAddress }}', "0.0.0.0", "it listens at"),
    ("API server", "templates/deployment.yaml", "enableServiceLinks: false", "serviceLinks: false", "is refused"),
    ("API server", "templates/services.yaml", "targetPort: tls-ca", "targetPort: -1", "is refused"),
    ("API server", "templates/_helpers.tpl", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "PodSecurity"),
    ("API server", "templates/rbac/policy-objects.yaml", "request.operation == 'DELETE' ||", "operation == 'DELETE' ||", "is refused"),
    ("writes", "templates/rbac/policy-objects.yaml", "check('watch').allowed()", "check('patch').allowed()",
     "istiod-tls of type kubernetes.io/tls may be written"),
    ("writes", "templates/rbac/policy-objects.yaml", "check('get').allowed()\n    - name: marked",
     "check('patch').allowed()\n    - name: marked", "kubernetes.io/tls may be written by a replica"),
    ("kubeconform", "templates/monitors.yaml", "  - port: http-admin", "  - ports: http-admin", "ServiceMonitor countersign is invalid"),
    ("kubeconform", "templates/monitors.yaml", "    any: true", "    all: true", "PodMonitor countersign-agents is invalid"),
    ("API server", "templates/monitors.yaml", "  - port: http-admin", "  - ports: http-admin", "is refused"),
    ("API server", "templates/prometheusrule.yaml", "      for: {{ $rule.for }}", "      for: soon", "is refused"),
    ("kubeconform", "templates/deployment.yaml", "enableServiceLinks: false", "serviceLinks: false", "Deployment countersign is invalid"),
    ("kubeconform", "templates/services.yaml", "  clusterIP: None", "  clusterIP: None\n  clusterIP: None", "already set in map"),
    ("program", "templates/deployment.yaml", "args: [serve, ", "args: [serve, --port=1, ", "ended with 64"),
    ("program", "templates/_config.tpl", '"policyObjects" $of', '"policyThings" $of', "no such setting"),
    ("program", "templates/deployment.yaml", "COUNTERSIGN_REPLICA_UID", "REPLICA_UID", "required, but no source gives it"),
    ("program", "templates/tests/certificate.yaml", "- --root-file=", "- --root-path=/x\n    - --root-file=", "makes no socket"),
    ("alerts", "templates/_alerts.tpl", "countersign_active{", "countersign_leader{", "which no replica shows"),
    ("alerts", "dashboards/countersign.json", "countersign_term{", "countersign_epoch{", "which no replica shows"),
    ("alerts", "templates/monitors.yaml", "-agents", "-gateways", "which is the job of no PodMonitor"),
    ("alerts", "templates/_alerts.tpl", "alert: CountersignNoActive", "alert: CountersignNobodyActive", "the alerts differ"),
    ("alerts as told", "templates/prometheusrule.yaml", "has $rule.alert $of.disabled", "has $rule.expr $of.disabled", "is disabled, and there"),
    ("alerts as told", "templates/_alerts.tpl", "$share $lifeLeft.critical", "$share $lifeLeft.warning", "does not go by 0.2 of a life"),
    ("alerts as told", "templates/prometheusrule.yaml", "get $of.overrides $rule.alert", "get $of.overrides $rule.expr", "is not as told"),
    ("account", "templates/deployment.yaml", 'include "countersign.serviceAccountName" .', "$name", "the replicas are ['countersign', 'ours']"),
    ("account", "templates/_helpers.tpl", '(include "countersign.serviceAccountName" .) -}}', '(include "countersign.fullname" .) -}}',
     "the replicas are ['countersign', 'ours']"),
    ("labels", "templates/_helpers.tpl", "merge $found $made (default dict (index . 1))", "merge $found $made $chart.Values.global.commonLabels (default dict (index . 1))",
     "the replicas' pods are labelled"),
    ("labels", "templates/_helpers.tpl", "$chart.Values.global.commonLabels (dict", "(dict", "is labelled"),
    ("nulls", "templates/deployment.yaml", '{{- include "countersign.defaulted" . -}}', "", "does not begin with"),
    ("nulls", "templates/_defaults.tpl", '"apiServerPorts": [', '"apiServerPorts": [8443,', "not as it comes"),
    ("nulls", "templates/_helpers.tpl", '{{- else if kindIs "map" $default -}}', "{{- else if false -}}", "is not rendered"),
    ("rights", "templates/rbac/_binding.tpl", 'include "countersign.serviceAccountName" .chart', 'include "countersign.fullname" .chart', "is not as in"),
    # the old replicas leave before there are new ones
    ("traffic", "templates/deployment.yaml", ROLLING, "type: Recreate", "requests failed beside"),
    ("refusals", "templates/_check.tpl", "{{- if $of.meshCa -}}", "{{- if false -}}", "is not refused"),
    ("refusals", "templates/_flags.tpl", '--listen: ""', '--listen: "listen"', "is not refused"),
    ("refusals", "values.schema.json", "\"checksum/config\"", "\"checksum\"", "is not refused"),
    ("refusals", "values.schema.json", '"additionalProperties": false', '"additionalProperties": true', "is not refused"),
]
# Sets of values in which what is broken for a check shows.
SHOWN_IN = {
    "stable": [], "nulls": [], "refusals": [], "traffic": [], "same bytes": ["as it comes"], "secrets": ["as it comes"], "hooks": ["as it comes"], "program": ["as it comes"],
    "addresses": ["pods without IPv4"], "alerts": ["all that can be added"], "account": ["an account that is there"], "labels": ["all that can be added"], "alerts as told": ["istiod, alerted otherwise"], "services": ["all that can be added"],
    "mesh roots": ["a root of its own", "a root of its own, with federation", "plugged-in beside the mesh"],
    "rights": ["istiod without policies", "the mesh's only CA", "other names", "rights from elsewhere", "an account that is there"],
    "API server": ["the mesh's only CA", "all that can be added"], "writes": ["istiod, with objects"], "kubeconform": ["all that can be added"],
}


class Rendered:
    """A chart with all it renders."""

    def __init__(self, chart: Path, names: Optional[List[str]] = None) -> None:
        self.chart = chart
        self.sets = [one for one in SETS if names is None or one.name in names]
        self.texts: Dict[str, str] = {}
        self.objects: Dict[str, str] = {}

    def text(self, one: Set) -> str:
        if one.name not in self.texts:
            self.texts[one.name] = self.once(one)
        return self.texts[one.name]

    def items(self, one: Set) -> List[dict]:
        if one.name not in self.objects:
            self.objects[one.name] = json.dumps(read(self.text(one)))
        return json.loads(self.objects[one.name])

    def once(self, one: Set) -> str:
        return render(one.values, one.release, one.namespace, self.chart)

    def gateway(self, one: Set) -> str:
        """A patch with the agent."""
        return documents.of_parent("plain-envoy", self.chart, one.values)

    def again(self, one: Set, _: List[dict]) -> None:
        if self.once(one) != self.text(one):
            raise Broken("another rendering gives other bytes")

    def each(self, check: Callable[[Set, List[dict]], None]) -> None:
        def of(one: Set) -> None:
            try:
                check(one, self.items(one))
            except Broken as error:
                raise Broken(f"{one.name}: {error}") from error

        side_by_side(of, self.sets)


def checks(binary: Path, cluster: Cluster, schemas: Path) -> Dict[str, Callable[[Rendered], None]]:
    """All that is looked at in a chart, by name."""
    return {
        "stable": lambda it: objects.stable(it.chart),
        "secrets": lambda it: it.each(lambda one, items: objects.without_secrets(items)),
        "hooks": lambda it: it.each(lambda one, items: objects.without_hooks(items)),
        "rights": lambda it: it.each(objects.same_rights),
        "services": lambda it: it.each(objects.found_unready),
        "mesh roots": lambda it: it.each(objects.has_the_mesh_roots),
        "addresses": lambda it: it.each(lambda one, _: objects.listens_where_told(one, it.text(one) + it.gateway(one))),
        "kubeconform": lambda it: conform.conform(schemas, {one.name: it.text(one) for one in it.sets}),
        "API server": lambda it: it.each(lambda one, items: live.accepted(cluster, items)),
        "writes": lambda it: it.each(lambda one, _: writes.of_secrets(cluster, it.chart, one)),
        "program": lambda it: it.each(lambda one, items: objects.taken_by_the_program(binary, items)),
        "account": lambda it: it.each(objects.of_their_account),
        "labels": lambda it: it.each(objects.labelled_as_ours),
        "alerts as told": lambda it: it.each(objects.alerts_as_told),
        "alerts": lambda it: objects.alerts_and_queries({one.name: it.items(one) for one in it.sets}, it.sets == SETS),
        "same bytes": lambda it: it.each(it.again),
        "nulls": lambda it: nulls.mean_not_given(it.chart),
        "refusals": lambda it: objects.refused(it.chart),
        "traffic": lambda it: say(f"no request failed: {traffic.unnoticed(binary, it.chart)}"),
    }


def can_fail(named: Dict[str, Callable[[Rendered], None]]) -> None:
    """A check that passes whatever stands in the chart would be none."""
    def fails(row: Tuple[str, str, str, str, str]) -> None:
        check, name, old, new, text = row
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(folder) / "countersign"
            copy_chart(chart)
            file = chart / name
            before = file.read_text()
            file.write_text(before.replace(old, new))
            if file.read_text() == before:
                raise Broken(f"{name} has no {old!r} to break")
            try:
                named[check](Rendered(chart, SHOWN_IN[check]))
            except Broken as error:
                if text not in str(error):
                    raise Broken(f"{new!r} in {name} is noticed, but not as {text!r}: {error}") from error
                return
            raise Broken(f"{new!r} in place of {old!r} in {name} is not noticed by check {check!r}")

    side_by_side(fails, BREAKS)


def step(name: str, work: Callable[[], None]) -> None:
    begin = time.monotonic()
    work()
    say(f"{name}: {time.monotonic() - begin:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make anew what is made from the chart, and check nothing")
    arguments = parser.parse_args()
    binary = Path(os.environ.get("COUNTERSIGN_TEST_BINARY") or RELEASE)
    try:
        provide()
        conform.provide()
        if arguments.write:
            documents.write()
            return 0
        if not os.access(binary, os.X_OK):
            raise Broken(f"{binary} is not there: build it, or name another one by COUNTERSIGN_TEST_BINARY")
        step("docs and schema", lambda: (documents.check(), objects.values_are_in_the_schema()))
        with ThreadPoolExecutor(3) as beside, Cluster() as cluster, tempfile.TemporaryDirectory() as schemas:
            for name in live.NAMESPACES:
                cluster.namespace(name)
            conform.serve_monitoring(cluster)
            conform.write_schemas(cluster, Path(schemas))
            named, whole = checks(binary, cluster, Path(schemas)), Rendered(CHART)
            say(f"{len(SETS)} sets of values, {len(REFUSED)} refused ones")
            # they have clusters of their own, and mostly wait
            under_load = beside.submit(named["traffic"], whole)
            by_istiod = beside.submit(mesh.certified_by_istiod, binary, CHART)
            left = beside.submit(uninstall.leaves_what_is_documented, binary, CHART)
            for name, check in named.items():
                if name != "traffic":
                    step(name, lambda: check(whole))
            step("gateways", lambda: live.gateways(cluster))
            step("install, upgrade, rollback, uninstall", lambda: live.installed(cluster))
            step("two replicas and the test's pod as processes", lambda: pair.runs(binary, cluster))
            step("two replicas before istiod, and with it", lambda: pair.waits_for_istiod(binary, cluster))
            step("traffic, beside all of that", under_load.result)
            step("traffic by istiod's certificates, beside it", lambda: say(f"no request failed: {by_istiod.result()}"))
            step("the mesh's CA uninstalled with policies, beside it", lambda: say(f"left as documented: {left.result()}"))
            step(f"{len(BREAKS)} breaks are noticed", lambda: can_fail(named))
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
