"""A gateway's Envoy and one that stands for a sidecar, each with its secrets from the agent beside it, and requests to the first."""

import http.client
import json
import threading
import time
from typing import Iterable, List

from .helm import Broken

TYPES = "type.googleapis.com"
TLS = f"{TYPES}/envoy.extensions.transport_sockets.tls.v3"
SOCKET = "/var/run/countersign/workload.sock"
CONFIG = "/etc/envoy/envoy.json"
LOG = "/var/log/envoy"
PORT = 8080
WORKERS = 2
PAUSE = 0.02  # seconds between requests of one worker
ANSWER = 20


def deployment(name: str, namespace: str, account: str) -> dict:
    """Of an Envoy that somebody has, as docs/gateways.md says what its patch is for."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 101,
                  "seccompProfile": {"type": "RuntimeDefault"}}
    arguments = ["--config-path", CONFIG, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning",
                 "--file-flush-interval-msec", "100"]
    mounts = [{"name": "config", "mountPath": "/etc/envoy"}, {"name": "log", "mountPath": LOG}]
    container = {"name": "envoy", "image": "registry.example/envoy:1", "args": arguments, "volumeMounts": mounts,
                 "securityContext": restricted}
    spec = {"serviceAccountName": account, "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": name}}, {"name": "log", "emptyDir": {}}]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}}


def gateway(address: str, server: str, server_id: str) -> dict:
    """Each request goes on over mutual TLS on a connection of its own: one of a pool would hide what certificate is in use."""
    upstream = {
        "name": "server", "type": "STATIC", "connect_timeout": "5s", "load_assignment": endpoint("server", socket_address(server)),
        "typed_extension_protocol_options": http_options({"http_protocol_options": {}}, {"max_requests_per_connection": 1}),
        "transport_socket": {"name": "tls", "typed_config": {
            # a resumed session looks at no certificate
            "@type": f"{TLS}.UpstreamTlsContext", "max_session_keys": 0, "common_tls_context": tls_context([server_id])}},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": f"{ANSWER}s"}}
    return bootstrap(address, {"filters": [http_filter(route, [])]}, [upstream])


def server(address: str, *client_ids: str) -> dict:
    """Demands a certificate of one of these identities, and writes down which one it was shown."""
    log = {"name": "file", "typed_config": {
        "@type": f"{TYPES}/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": f"{LOG}/access.log",
        "log_format": {"json_format": {"id": "%DOWNSTREAM_PEER_URI_SAN%", "serial": "%DOWNSTREAM_PEER_SERIAL%"}}}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "served"}}}
    context = {"@type": f"{TLS}.DownstreamTlsContext", "require_client_certificate": True,
               "disable_stateless_session_resumption": True, "common_tls_context": tls_context(client_ids)}
    return bootstrap(address, {"filters": [http_filter(route, [log])], "transport_socket": {"name": "tls", "typed_config": context}}, [])


def bootstrap(address: str, chain: dict, clusters: List[dict]) -> dict:
    agent = {
        "name": "sds", "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoint("sds", {"pipe": {"path": SOCKET}}),
        "typed_extension_protocol_options": http_options({"http2_protocol_options": {}}, {}),
    }
    listener = {"name": "http", "address": socket_address(address), "filter_chains": [chain]}
    return {"node": {"id": "check", "cluster": "check"}, "static_resources": {"listeners": [listener], "clusters": [agent, *clusters]}}


def tls_context(peers: Iterable[str]) -> dict:
    def config(name: str) -> dict:
        source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}]}
        return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}

    return {
        "tls_certificate_sds_secret_configs": [config("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": peer}} for peer in peers]},
            "validation_context_sds_secret_config": config("ROOTCA"),
        },
    }


def http_filter(route: dict, access_log: List[dict]) -> dict:
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}/envoy.extensions.filters.http.router.v3.Router"}}
    return {"name": "http", "typed_config": {
        "@type": f"{TYPES}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "access_log": access_log, "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}}


def http_options(protocol: dict, common: dict) -> dict:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {kind: {"@type": f"{TYPES}/{kind}", "explicit_http_config": protocol, "common_http_protocol_options": common}}


def endpoint(cluster: str, address: dict) -> dict:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def socket_address(address: str) -> dict:
    return {"socket_address": {"address": address, "port_value": PORT}}


def ask(address: str) -> str:
    """Nothing if a request on a fresh connection is answered as it should be; otherwise what happened."""
    connection = http.client.HTTPConnection(address, PORT, timeout=ANSWER + 5)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return "" if (answer.status, text) == (200, "served") else f"{answer.status} {text}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


class Load:
    """Steady requests, as long as its `with`."""

    def __init__(self, address: str) -> None:
        self.address, self.begin = address, time.monotonic()
        self.answered, self.failures, self.over, self.lock = 0, [], threading.Event(), threading.Lock()
        self.workers = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]

    def __enter__(self) -> "Load":
        for worker in self.workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for worker in self.workers:
            worker.join()

    def check(self) -> int:
        """Requests that were answered so far, if none failed."""
        with self.lock:
            if self.failures:
                raise Broken(f"{len(self.failures)} requests failed beside {self.answered} that did not: {self.failures[:3]}")
            return self.answered

    def _work(self) -> None:
        while not self.over.wait(PAUSE):
            failure = ask(self.address)
            with self.lock:
                if failure:
                    self.failures.append(f"after {time.monotonic() - self.begin:.1f} s: {failure}")
                else:
                    self.answered += 1
