"""Which Secrets a replica may write with the rights that are rendered, asked of the real API server as the replica, dry."""

import itertools
import time
from pathlib import Path
from typing import Dict, List, Tuple

from .cluster import Cluster
from .helm import Broken, documents, render
from .objects import RIGHTS, account_of, of_kind
from .sets import GATEWAY, Set

LIMIT = 10  # seconds until rights and the policy count
REFUSAL = "a replica of Countersign writes no Secret of this type and name"
SDS, TLS, OPAQUE = "gateway.envoyproxy.io/sds", "kubernetes.io/tls", "Opaque"
# Namespace, name, type, and the value that grants it; none, and nothing does.
SECRETS: List[Tuple[str, str, str, str]] = [
    ("gateways", "countersign-backend", SDS, "policyObjects"),
    ("countersign", "countersign-authority", OPAQUE, "authority"),
    ("countersign", "countersign-trust", OPAQUE, "authority"),
    ("istio-system", "istiod-tls", TLS, "meshCa"),
    ("gateways", "mesh-certificate", TLS, "gatewaySecrets"),
    ("gateways", "mesh-certificate", OPAQUE, ""),
    ("platform", "mesh-certificate", TLS, ""),
    ("gateways", "another-certificate", TLS, ""),
    ("gateways", "countersign-svid", TLS, ""),
    ("gateways", "istiod-tls", TLS, ""),
    ("gateways", "countersign-authority", OPAQUE, ""),
    ("istio-system", "cacerts", OPAQUE, ""),
    ("countersign", "another", OPAQUE, ""),
]
releases = itertools.count()


def of_secrets(cluster: Cluster, chart: Path, one: Set) -> None:
    """What is not granted by name is refused by the policy, and by nothing else: the role by itself lets all of it pass."""
    values = {"policyObjects": False, "meshCa": False, "gatewaySecrets": [], **one.values}
    if not values["policyObjects"] or "rbac" in values:
        return
    # a name of its own, so that no other set's rights are in the way
    full_name = f"writes-{next(releases)}"
    account = account_of(one, full_name)
    items = of_kind(documents(render({**one.values, "fullnameOverride": full_name}, namespace=one.namespace, chart=chart)), *RIGHTS)
    for item in items:
        cluster.apply(item, is_dry=False)
    granted = {"policyObjects": True, "meshCa": values["meshCa"], "gatewaySecrets": GATEWAY in values["gatewaySecrets"],
               "authority": values.get("mode", "istiod") != "istiod", "": False}
    # those that are granted first: by then the roles count
    places = {"countersign": one.namespace, "istio-system": values.get("istioNamespace", "istio-system")}
    for namespace, name, kind, by in sorted(SECRETS, key=lambda row: not granted[row[3]]):
        place = places.get(namespace, namespace)
        until(cluster, f"system:serviceaccount:{one.namespace}:{account}", (place, name, kind), granted[by])
    for item in items:
        cluster.ask("DELETE", cluster.path(item))


def until(cluster: Cluster, user: str, secret: Tuple[str, str, str], is_granted: bool) -> None:
    namespace, name, kind = secret
    item: Dict[str, object] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name}, "type": kind}
    if kind == TLS:
        item["data"] = {"tls.crt": "", "tls.key": ""}
    path, limit = f"{cluster.path(item)}?fieldManager=check&dryRun=All", time.monotonic() + LIMIT
    while True:
        code, answer = cluster.ask("PATCH", path, item, "application/apply-patch+yaml", user)
        is_refused = code in (403, 422) and REFUSAL in str(answer)
        if (code in (200, 201)) if is_granted else is_refused:
            return
        if time.monotonic() > limit:
            wrong = "is granted, and refused to a replica" if is_granted else "may be written by a replica, and is not granted"
            raise Broken(f"Secret {namespace}/{name} of type {kind} {wrong}: {code} {answer}")
        time.sleep(0.05)
