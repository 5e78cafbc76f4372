"""Faults that are made of real processes on this machine, and what is seen of them: recordings by name, all made side by side. Those that
need a cluster are made where there is one, and left in target/peers/scrapes/faults."""

import json
import random
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Callable, Dict, List

from run import PEERS

from . import envoys
from .cluster import free_port
from .dated import certified, root_from
from .helm import Broken
from .pair import Process
from .recordings import Recording, held
from .scene import IDENTITY, Scene
from .scrapes import until

# An SVID of the agent that nobody renews, and how long it is looked at: until after its end.
TTL, WATCHED = 40, 46  # seconds
BUSY_AGENTS = 8
OUTPUT_CHECK = 30  # seconds between two times that an output is read back


def without_authority(scene: Scene) -> Recording:
    """Whoever signs is gone for longer than the agent's SVID lives."""
    scene.replica("pair", is_shown=False)
    scene.agent("agent", "pair", f"--svid-ttl={TTL}s")
    scene.ready("agent")
    scene.watch(3)
    scene.goes_wrong()
    scene.end("pair")
    scene.watch(WATCHED)
    return scene.recording


def of_another_domain(scene: Scene) -> Recording:
    """What is signed is of another trust domain than agent and replica are told: they were first, so nothing is refused before."""
    scene.replica("pair", is_shown=False)
    scene.token()
    scene.end("pair")
    scene.agent("agent", "pair", domain="mesh.example")
    scene.before_istiod("replica", "pair", domain="mesh.example")
    for pod in ("agent", "replica"):
        scene.shows(pod, "^countersign_build_info")
    scene.watch(3)
    scene.goes_wrong()
    scene.replica("pair", is_shown=False)
    scene.watch(15)
    return scene.recording


def without_istiod(scene: Scene) -> Recording:
    """istiod is gone, and an agent goes on asking a replica in front of it."""
    scene.replica("istiod", is_shown=False)
    scene.before_istiod("replica", "istiod")
    scene.ready("replica")
    scene.agent("agent", "replica", f"--ca-identity={IDENTITY}", "--svid-ttl=6s", is_shown=False)
    scene.ready("agent")
    scene.watch(6)
    scene.goes_wrong()
    scene.end("istiod")
    scene.watch(20)
    return scene.recording


def too_many(scene: Scene) -> Recording:
    """More agents of short lives than the replica's share of istiod has turns for."""
    scene.replica("istiod", is_shown=False)
    scene.before_istiod("replica", "istiod", "--istiod-qps=1")
    scene.ready("replica")
    scene.watch(3)
    scene.goes_wrong()
    for at in range(BUSY_AGENTS):
        scene.agent(f"agent-{at}", "replica", f"--ca-identity={IDENTITY}", "--svid-ttl=2s", is_shown=False)
    scene.watch(30)
    return scene.recording


def crashing_agent(scene: Scene) -> Recording:
    """An agent is killed, and once more when it has started again."""
    scene.replica("pair", is_shown=False)
    scene.agent("agent", "pair")
    scene.ready("agent")
    scene.watch(11)
    scene.goes_wrong()
    scene.end("agent")
    scene.watch(4)
    scene.agent("agent", "pair")
    scene.ready("agent")
    scene.watch(1)
    scene.end("agent")
    scene.watch(5)
    return scene.recording


def hanging_active(scene: Scene) -> Recording:
    """The active stands still, with its lock in its hand, and shows nothing any more."""
    scene.replica("replica-0")
    scene.replica("replica-1")
    before = scene.seen()
    scene.stand_still("replica-0")
    return held([before], scene.seen())


def two_pairs(scene: Scene) -> Recording:
    """A second pair in the namespace of the first."""
    scene.replica("replica")
    before = scene.seen()
    scene.replica("other", data="other")
    return held([before], scene.seen())


def near_its_end(scene: Scene) -> Recording:
    """A plugged-in authority, and its root, with three weeks left; before it another pair with one of more than a year."""
    scene.replica("replica", "--source=plugged-in", f"--ca-dir={root_from(scene.folder, 'long')}", data="before")
    before = scene.seen()
    scene.end("replica")
    scene.replica("replica", "--source=plugged-in", f"--ca-dir={root_from(scene.folder, 'short')}")
    return held([before], scene.seen())


def above_at_its_end(scene: Scene) -> Recording:
    """What stands between a plugged-in authority and its root ends in three weeks, which last; before it another pair without such."""
    scene.replica("replica", "--source=plugged-in", f"--ca-dir={root_from(scene.folder, 'long')}", data="before")
    before = scene.seen()
    scene.end("replica")
    scene.replica("replica", "--source=plugged-in", f"--ca-dir={root_from(scene.folder, 'long', between='short')}")
    return held([before], scene.seen())


def web_certificate_at_its_end(scene: Scene) -> Recording:
    """The bundle endpoint has a certificate with five days left; before that one of more than a year."""
    def endpoint(life: str) -> List[str]:
        made = scene.folder / f"web-{life}"
        made.mkdir()
        certified(made, "web", life, "subjectAltName=DNS:localhost\n")
        return [f"--bundle-endpoint=127.0.0.1:{free_port()}", f"--bundle-endpoint-cert={made}/web.pem", f"--bundle-endpoint-key={made}/web-key.pem"]

    scene.replica("replica", *endpoint("long"))
    before = scene.seen()
    scene.end("replica")
    scene.replica("replica", *endpoint("ending"))
    return held([before], scene.seen())


def other_domain_at_its_end(scene: Scene) -> Recording:
    """Another trust domain whose only root ends in five days; before that one with a root of more than a year."""
    scene.replica("replica")
    rounds = []
    for life in ("long", "ending"):
        endpoint, domain = free_port(), f"{life}.example"
        scene.replica(life, "--source=plugged-in", f"--ca-dir={root_from(scene.folder, life, domain)}", f"--bundle-endpoint=127.0.0.1:{endpoint}",
                      data=life, domain=domain, is_shown=False)
        scene.command("federation", "create", domain, "--url", f"https://127.0.0.1:{endpoint}/", "--endpoint-id",
                      f"spiffe://{domain}/countersign/serving", "--bundle", str(scene.folder / f"root-{life}" / "root-cert.pem"))
        scene.shows("replica", rf'^countersign_federated_bundle_expiry_timestamp_seconds\{{trust_domain="{domain}"')
        rounds.append(scene.seen())
    return held(rounds[:1], rounds[1])


def refused_secret(scene: Scene) -> Recording:
    """An Envoy asks for a certificate as if it were what others are verified by."""
    scene.replica("pair", is_shown=False)
    scene.agent("agent", "pair")
    scene.ready("agent")
    before = scene.seen()
    address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.1"
    config = json.dumps(envoys.gateway(address, address, IDENTITY)).replace(envoys.SOCKET, str(scene.folder / "agent.sock"))
    file = scene.folder / "envoy.json"
    file.write_text(config.replace('"ROOTCA"', '"default"'))
    arguments = ["--config-path", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    scene.running.enter_context(Process(PEERS / "bin" / "envoy", arguments, {}, scene.folder / "envoy.log"))
    scene.shows("agent", r"^countersign_sds_nacks_total [1-9]")
    return held([before], scene.seen())


def unusable_authority(scene: Scene) -> Recording:
    """The certificate of a plugged-in authority is overwritten."""
    place = root_from(scene.folder, "long")
    scene.replica("replica", "--source=plugged-in", f"--ca-dir={place}")
    before = scene.seen()
    (place / "ca-cert.pem").write_text("no certificate\n")
    scene.shows("replica", r'^countersign_authority_reloads_total\{outcome="refused"\} [1-9]')
    return held([before], scene.seen())


def without_the_other(scene: Scene) -> Recording:
    """The bundle endpoint of another trust domain is gone, and a replica that starts anew, and asks at once, has asked in vain."""
    endpoint = free_port()
    scene.replica("other", f"--bundle-endpoint=127.0.0.1:{endpoint}", "--bundle-refresh-hint=1s", data="other", domain="other.example",
                  is_shown=False)
    scene.replica("replica")
    scene.command("federation", "create", "other.example", "--url", f"https://127.0.0.1:{endpoint}/", "--endpoint-id",
                  "spiffe://other.example/countersign/serving", "--bundle", str(scene.folder / "other" / "root-cert.pem"))
    scene.shows("replica", r"^countersign_federated_bundle_fetched_timestamp_seconds\{")
    before = scene.seen()
    for pod in ("other", "replica"):
        scene.end(pod)
    scene.replica("replica")
    scene.shows("replica", r'^countersign_federated_bundle_fetches_total\{outcome="unreachable"\} [2-9]')
    scene.shows("replica", r"^countersign_federated_bundle_fetched_timestamp_seconds\{")
    return held([before], scene.seen())


def deaf_follower(scene: Scene) -> Recording:
    """An agent stands still while there is another root to know."""
    scene.replica("replica")
    scene.agent("agent", "replica", is_shown=False)
    scene.ready("agent")
    scene.shows("replica", r'^countersign_trust_followers\{state="current"\} 2')
    before = scene.seen()
    scene.stand_still("agent")
    scene.command("authority", "x509", "prepare")
    scene.shows("replica", r'^countersign_trust_followers\{state="behind"\} 1')
    return held([before], scene.seen())


def lost_output(scene: Scene) -> Recording:
    """A file stands where the agent's folder was, and is still there when that is read back the next time."""
    scene.replica("pair", is_shown=False)
    place = scene.folder / "output"
    scene.agent("agent", "pair", f"--output-dir={place}")
    scene.ready("agent")
    scene.shows("agent", r'^countersign_output_verified_timestamp_seconds\{output="files"\}')
    before = scene.seen()
    shutil.rmtree(place)
    place.write_text("in the way\n")

    def age() -> float:
        shown = re.search(r'^countersign_output_verified_timestamp_seconds\{output="files"\} (\S+)$', scene.page("agent"), re.MULTILINE)
        return time.time() - float(shown[1])

    until("the output is found wrong", lambda: "" if age() > OUTPUT_CHECK + 2 else f"verified {age():.0f} s ago")
    return held([before], scene.seen())


SCENES: List[Callable[[Scene], Recording]] = [
    lost_output, without_authority, too_many, without_istiod, of_another_domain, crashing_agent, hanging_active, two_pairs, near_its_end,
    unusable_authority, without_the_other, deaf_follower, above_at_its_end, web_certificate_at_its_end, other_domain_at_its_end,
    refused_secret,
]


def recorded() -> Dict[str, Recording]:
    """All of them, by the names of their functions."""
    def of(make: Callable[[Scene], Recording]) -> Recording:
        with ExitStack() as running:
            try:
                return make(Scene(running))
            except Broken as error:
                raise Broken(f"{make.__name__}: {error}") from error

    with ThreadPoolExecutor(len(SCENES)) as pool:
        return dict(zip((make.__name__ for make in SCENES), pool.map(of, SCENES)))
