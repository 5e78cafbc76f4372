"""What the quick start comes to: both gateways have been let in by who they are, and the page's own files are what did it."""

import json
from typing import TYPE_CHECKING

from chart_checks.helm import Broken
from chart_checks.traffic import callers, spiffe_id, wait_until
from run import ENVOY, ROOT

from . import envoy_gateway
from .pages import Block, blocks
from .workloads import EDGE, MESH

if TYPE_CHECKING:
    from .cluster import InCluster

PAGE = "docs/quick-start.md"
LIMIT = 600  # seconds that it may take, without what is downloaded and built
IDENTITIES = {spiffe_id(EDGE, MESH), spiffe_id((envoy_gateway.NAMESPACE, envoy_gateway.ACCOUNT), MESH)}
# Without any of these in envoy.yaml no request may be answered.
NEEDED = {
    "whom to accept": ("name: validation/shop/web ", "name: validation/shop/other "),
    "our SVID": ("          tls_certificate_sds_secret_configs:\n          - {name: default, sds_config: *sds} ", "          "),
    "the ALPN list": ("alpn_protocols: [istio-http/1.1, istio]", "alpn_protocols: []"),
}


def check(there: "InCluster", took: float) -> None:
    """Once it has been followed."""
    if took > LIMIT:
        raise Broken(f"the quick start took {took:.0f} s: more than {LIMIT}")
    if f"envoyproxy/envoy:v{ENVOY.split('==')[1]}\n" not in (ROOT / PAGE).read_text():
        raise Broken(f"{PAGE} has not the Envoy that the tests have, {ENVOY}")

    def others() -> str:
        shown = {line["id"] for line in callers(there.nodes.web.pod)}
        return "" if shown == IDENTITIES else f"{shown}"

    wait_until(others, f"the application has not been asked by {IDENTITIES} alone")
    config = (there.folder.path / "envoy.yaml").read_text()
    for what, (text, other) in NEEDED.items():
        if config.count(text) != 1:
            raise Broken(f"envoy.yaml of {PAGE} has no {text!r}")
        answered(there, f"without {what}", config.replace(text, other), 503)
    answered(there, "as it stands there", config, 200)


def answered(there: "InCluster", what: str, config: str, status: int) -> None:
    """Envoy with this configuration, made as the page has it made, answers the page's request so."""
    (there.folder.path / "envoy.yaml").write_text(config)
    of_page = blocks(ROOT / PAGE)
    made = next(command for block in of_page for command in block.commands() if "create configmap edge" in command)
    edge = "kubectl --namespace gateways"
    # not by `rollout restart`, which refuses to do so twice within a second
    rolled = json.dumps({"spec": {"template": {"metadata": {"annotations": {"edge.example/envoy.yaml": what}}}}})
    commands = [f"{edge} delete configmap edge", made, f"{edge} patch deployment/edge --patch '{rolled}'", f"{edge} rollout status deployment/edge"]
    there.folder.follow(Block(PAGE, 0, "".join(f"{command}\n" for command in commands)))
    forward, request = (next(block for block in of_page if block.text.startswith(begin)) for begin in (f"{edge} port-forward service/edge", "curl -i"))
    there.run_block(forward)

    def other() -> str:
        there.run_block(request)
        return "" if f"HTTP/1.1 {status} " in there.folder.said else there.folder.said

    wait_until(other, f"{PAGE}: {what} envoy.yaml does not answer {status}")
