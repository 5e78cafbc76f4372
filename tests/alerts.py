#!/usr/bin/env python3
"""Tests each alert of the chart with promtool: quiet while all is well, there once what it is about has gone on for long enough, and on
whom. Then by what real processes show while the fault is there; and that alerts and dashboard ask for what they show. promtool is built
once and kept with the other peers; what needs a cluster has been left in target/peers/scrapes by tests/chart.py and the tests with an API
server.
"""

import sys

sys.dont_write_bytecode = True

import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Set

from chart_checks import faults, recordings
from chart_checks.helm import Broken, provide, render
from chart_checks.helm import documents as read
from chart_checks.objects import of_kind
from chart_checks.recordings import AGENTS
from chart_checks.scrapes import answers, has_beginnings, is_as_told, scraped
from run import PEERS, Failed, Step, install_go, say

PROMTOOL = ("github.com/prometheus/prometheus", "v0.316.0")
MONITORED = {"metrics": {"prometheusRule": {"enabled": True}, "agents": {"podMonitor": {"enabled": True}}}}
ISTIOD, PLUGGED_IN = MONITORED, {**MONITORED, "mode": "plugged-in", "policyObjects": True}
SCOPED = {"metrics": {"prometheusRule": {"enabled": True}, "agents": {"namespaces": ["gateways"]}}}
OWN_ROOT = {**MONITORED, "mode": "self-signed", "trustDomain": "gateways.example"}
# where istiod signs certificates, and the pair JWT-SVIDs
ISTIOD_JWT = {**MONITORED, "mode": "istiod", "jwtSvids": True}
HERE = 'namespace="countersign"'
ALL_VALUES = (ISTIOD, ISTIOD_JWT, PLUGGED_IN, OWN_ROOT, SCOPED)
DAY = 86400
YEARS = 3650 * DAY


@dataclass
class Case:
    """Series are as promtool has them, a sample a minute (or `interval`), from the time 0 on."""

    alert: str
    values: dict
    series: Dict[str, str]
    quiet: str
    fires: str
    labels: Dict[str, str] = field(default_factory=dict)
    interval: str = "1m"


def lives(labels: str, *certificates: tuple, of: str = "countersign_certificate", after: int = 0) -> Dict[str, str]:
    """When certificates begin and end, one after the other: begin, end, and how often each is seen after the first time; from a sample on."""
    def series(at: int) -> str:
        return " ".join([*([f"_x{after - 1}"] if after else []), *(f"{one[at]}x{one[2]}" for one in certificates)])

    return {f"{of}_not_before_timestamp_seconds{{{labels}}}": series(0), f"{of}_expiry_timestamp_seconds{{{labels}}}": series(1)}


# A certificate of 24 h, renewed at half once, and then not any more: it ends at 36 h. A sample each five minutes.
RENEWED_ONCE = (0, DAY, 143), (DAY // 2, DAY * 3 // 2, 400)
# The same, and at 12 h another life is configured: from then on one of an hour each half hour, the last one at 17 h.
HOURS = [(DAY // 2 + 1800 * n, DAY // 2 + 1800 * n + 3600, 5) for n in range(10)]
SHORTENED = (0, DAY, 143), *HOURS, (DAY // 2 + 1800 * 10, DAY * 3 // 4, 400)
# A certificate of 30 days that nobody renews. A sample an hour.
OF_A_MONTH = (0, 30 * DAY, 800)
# A root of 90 days, as cert-manager makes them: replaced when a third is left, twice. A sample an hour.
OF_A_QUARTER = (0, 90 * DAY, 60 * 24 - 1), (60 * DAY, 150 * DAY, 60 * 24 - 1), (120 * DAY, 210 * DAY, 2400)


def of_years(left: int) -> tuple:
    """One of ten years that has so many days left."""
    return left * DAY - YEARS, left * DAY, 1000


POD = {"pod": "a"}
RELEASE = {"namespace": "countersign"}
OURS = {**RELEASE, **POD}
ROOT = {"certificate": "last_root", **RELEASE}
CASES = [
    Case("CountersignCertificateExpiring", ISTIOD, lives('certificate="serving",pod="a"', *RENEWED_ONCE),
         quiet="27h", fires="29h", labels={"certificate": "serving", **POD}, interval="5m"),
    # one of an hour has minutes
    Case("CountersignCertificateExpiring", ISTIOD, lives('certificate="svid",pod="a"', (0, 3600, 29), (1800, 5400, 29), (3600, 7200, 200)),
         quiet="99m", fires="110m", labels={"certificate": "svid", **POD}),
    Case("CountersignCertificateExpiring", ISTIOD, lives('certificate="svid",pod="a"', *SHORTENED),
         quiet="16h55m", fires="17h50m", labels={"certificate": "svid", **POD}, interval="5m"),
    Case("CountersignCertificateExpiresNow", ISTIOD, lives('certificate="svid",pod="a"', *SHORTENED),
         quiet="16h55m", fires="18h", labels={"certificate": "svid", **POD}, interval="5m"),
    # one of a month, also where Prometheus has seen it for a day only, or not before it is late
    *(Case("CountersignCertificateExpiring", ISTIOD, lives('certificate="svid",pod="a"', OF_A_MONTH, after=seen), quiet="20d2h", fires="20d6h",
           labels={"certificate": "svid", **POD}, interval="1h") for seen in (0, 19 * 24)),
    Case("CountersignCertificateExpiresNow", ISTIOD, lives('certificate="svid",pod="a"', OF_A_MONTH, after=27 * 24), quiet="26d", fires="27d2h",
         labels={"certificate": "svid", **POD}, interval="1h"),
    Case("CountersignOutputExpiring", ISTIOD, lives('output="files",pod="a"', OF_A_MONTH, of="countersign_output", after=27 * 24), quiet="26d",
         fires="27d2h", labels={"output": "files", **POD}, interval="1h"),
    # of several identities of an agent, one
    Case("CountersignCertificateExpiring", ISTIOD, {**lives('certificate="svid",pod="a"', (0, 90 * DAY, 600)),
                                                    **lives('certificate="svid",identity="api",pod="a"', *RENEWED_ONCE)},
         quiet="27h", fires="29h", labels={"certificate": "svid", "identity": "api", **POD}, interval="5m"),
    Case("CountersignRenewalFailing", ISTIOD,
         {'countersign_svid_renewals_total{outcome="failed",pod="a"}': "0x200",
          'countersign_svid_renewals_total{outcome="renewed",pod="a"}': "0+1x200",
          'countersign_svid_renewals_total{outcome="failed",identity="api",pod="a"}': "0x10 1+1x120",
          'countersign_svid_renewals_total{outcome="renewed",identity="api",pod="a"}': "3x200"},
         quiet="20m", fires="30m", labels={"outcome": "failed", "identity": "api", **POD}),
    Case("CountersignOutputExpiring", ISTIOD, lives('output="files",pod="a"', *SHORTENED, of="countersign_output"),
         quiet="16h55m", fires="17h50m", labels={"output": "files", **POD}, interval="5m"),
    # those of gateways that another release is told of are none of this one's
    Case("CountersignCertificateExpiring", SCOPED, {**lives('certificate="svid",namespace="gateways",pod="a"', *RENEWED_ONCE),
                                                    **lives('certificate="svid",namespace="others",pod="b"', *RENEWED_ONCE)},
         quiet="27h", fires="29h", labels={"certificate": "svid", "namespace": "gateways", **POD}, interval="5m"),
    Case("CountersignCertificateExpiresNow", ISTIOD, lives('certificate="svid",pod="a"', *RENEWED_ONCE),
         quiet="32h", fires="33h", labels={"certificate": "svid", **POD}, interval="5m"),
    Case("CountersignOutputExpiring", ISTIOD,
         lives('output="files",pod="a"', *RENEWED_ONCE, of="countersign_output"),
         quiet="27h", fires="29h", labels={"output": "files", **POD}, interval="5m"),
    Case("CountersignOutputNotVerified", ISTIOD,
         {'countersign_output_verified_timestamp_seconds{output="files",pod="a"}': "0+60x10 600x60"},
         quiet="14m", fires="22m", labels={"output": "files", **POD}),
    Case("CountersignRenewalFailing", ISTIOD,
         {'countersign_svid_renewals_total{outcome="failed",pod="a"}': "0x10 1+1x120",
          'countersign_svid_renewals_total{outcome="renewed",pod="a"}': "3x200"},
         quiet="20m", fires="30m", labels={"outcome": "failed", **POD}),
    Case("CountersignSvidRejected", ISTIOD, {'countersign_svid_rejections_total{pod="a"}': "0x10 1+1x60"},
         quiet="10m", fires="20m", labels=POD),
    Case("CountersignSecretRefused", ISTIOD, {'countersign_sds_nacks_total{pod="a"}': "0x10 1x60"}, quiet="10m", fires="17m", labels=POD),
    Case("CountersignClockSkew", ISTIOD, {'countersign_clock_skew_seconds{pod="a"}': "0x10 60x60"},
         quiet="14m", fires="17m", labels=POD),
    # one that is gone; another one was away for a moment
    Case("CountersignAgentMissing", ISTIOD, {f'up{{job="{AGENTS}",pod="a"}}': "1x10 0x60", f'up{{job="{AGENTS}",pod="b"}}': "1x10 0x3 1x60"},
         quiet="19m", fires="25m", labels={"job": AGENTS, **POD}),
    # a pod that never was ready, and was replaced, beside one that is gone
    Case("CountersignAgentMissing", ISTIOD, {f'up{{job="{AGENTS}",pod="a"}}': "1x20 0x60", f'up{{job="{AGENTS}",pod="b"}}': "0x2 stale"},
         quiet="19m", fires="35m", labels={"job": AGENTS, **POD}),
    # one that starts again and again
    Case("CountersignAgentMissing", ISTIOD, {f'up{{job="{AGENTS}",pod="a"}}': f"1x10{' 0x3 1' * 12}"},
         quiet="19m", fires="60m", labels={"job": AGENTS, **POD}),
    Case("CountersignNoActive", ISTIOD,
         {f'countersign_active{{{HERE},pod="a"}}': "1x10 0x60", f'countersign_active{{{HERE},pod="b"}}': "0x70"},
         quiet="11m", fires="13m", labels=RELEASE),
    # of neither is there anything left
    Case("CountersignNoActive", ISTIOD,
         {f'countersign_active{{{HERE},pod="a"}}': "1x10 stale", f'countersign_active{{{HERE},pod="b"}}': "0x10 stale"},
         quiet="11m", fires="13m", labels=RELEASE),
    Case("CountersignTwoActive", ISTIOD,
         {f'countersign_active{{{HERE},pod="a"}}': "1x70", f'countersign_active{{{HERE},pod="b"}}': "0x10 1x60"},
         quiet="12m", fires="14m", labels=RELEASE),
    Case("CountersignReplicaMissing", ISTIOD,
         {f'countersign_active{{{HERE},pod="a"}}': "1x70", f'countersign_active{{{HERE},pod="b"}}': "0x10 stale"},
         quiet="19m", fires="23m", labels=RELEASE),
    # of both there is nothing left
    Case("CountersignReplicaMissing", ISTIOD, {f'countersign_active{{{HERE},pod="a"}}': "1x10 stale"},
         quiet="9m", fires="23m", labels=RELEASE),
    Case("CountersignRequestsFailing", ISTIOD,
         {f'countersign_certificate_requests_total{{outcome="issued",{HERE}}}': "0+60x70",
          f'countersign_certificate_requests_total{{outcome="unauthenticated",{HERE}}}': "0+60x70",
          f'countersign_certificate_requests_total{{outcome="unavailable",{HERE}}}': "0x20 60+60x50"},
         quiet="22m", fires="32m", labels=RELEASE),
    # one of years
    Case("CountersignAuthorityExpiring", PLUGGED_IN, {**lives(f'certificate="authority",{HERE},pod="a"', of_years(60)),
                                                      **lives(f'certificate="authority",{HERE},pod="b"', of_years(5))},
         quiet="30d", fires="31d", labels={"certificate": "authority", **RELEASE}, interval="1h"),
    # one of 60 days, which its maker replaces when a third is left, once
    Case("CountersignAuthorityExpiring", PLUGGED_IN,
         lives(f'certificate="authority",{HERE},pod="a"', (-20 * DAY, 40 * DAY, 479), (20 * DAY, 80 * DAY, 1900)),
         quiet="67d", fires="69d", labels={"certificate": "authority", **RELEASE}, interval="1h"),
    # the next one signs 7 days before the end, if all is well
    Case("CountersignAuthorityExpiring", OWN_ROOT, lives(f'certificate="authority",{HERE},pod="a"', of_years(40)),
         quiet="34d", fires="35d", labels={"certificate": "authority", **RELEASE}, interval="1h"),
    # what stands between it and the root
    Case("CountersignAuthorityExpiring", PLUGGED_IN, lives(f'certificate="intermediate",{HERE},pod="a"', of_years(60)),
         quiet="30d", fires="31d", labels={"certificate": "intermediate", **RELEASE}, interval="1h"),
    # what only the replicas see; those that are started anew make another one
    *(Case("CountersignPairAuthorityExpiring", values, lives(f'certificate="pair_authority",{HERE},pod="a"', of_years(60)),
           quiet="30d", fires="31d", labels={"certificate": "pair_authority", **RELEASE}, interval="1h")
      for values in (PLUGGED_IN, OWN_ROOT, ISTIOD_JWT)),
    Case("CountersignBundleEndpointExpiring", ISTIOD, lives(f'certificate="bundle_endpoint",{HERE},pod="a"', (-325 * DAY, 40 * DAY, 1000)),
         quiet="26d", fires="27d", labels={"certificate": "bundle_endpoint", **RELEASE}, interval="1h"),
    # the root of a day that is followed by another one each half day, and then by none
    *(Case("CountersignFederatedBundleExpiring", values,
           lives(f'trust_domain="other.example",{HERE},pod="a"', *((DAY // 2 * n, DAY + DAY // 2 * n, 11) for n in range(60)), (30 * DAY, 31 * DAY, 100),
                 of="countersign_federated_bundle"),
           quiet="30d", fires="31d", labels={"trust_domain": "other.example", **RELEASE}, interval="1h") for values in (PLUGGED_IN, ISTIOD_JWT)),
    # what the one that was active before has made, and the other has renewed
    Case("CountersignCertificateExpiring", PLUGGED_IN, {**lives(f'certificate="istiod",{HERE},pod="a"', (0, DAY, 600)),
                                                       **lives(f'certificate="istiod",{HERE},pod="b"', RENEWED_ONCE[1], after=144)},
         quiet="27h", fires="29h", labels={"certificate": "istiod", "namespace": "countersign"}, interval="5m"),
    Case("CountersignCertificateExpiring", PLUGGED_IN, lives(f'certificate="pair",{HERE},pod="a"', *RENEWED_ONCE),
         quiet="27h", fires="29h", labels={"certificate": "pair", **OURS}, interval="5m"),
    # also where istiod has them
    *(Case("CountersignRootExpiring", values, lives(f'certificate="last_root",{HERE},pod="a"', of_years(100)), quiet="9d", fires="11d", labels=ROOT,
           interval="1h") for values in (ISTIOD, PLUGGED_IN)),
    Case("CountersignRootExpiresSoon", PLUGGED_IN, lives(f'certificate="last_root",{HERE},pod="a"', of_years(40)), quiet="9d", fires="11d",
         labels=ROOT, interval="1h"),
    # short ones are replaced late
    Case("CountersignRootExpiring", PLUGGED_IN, lives(f'certificate="last_root",{HERE},pod="a"', *OF_A_QUARTER), quiet="119d23h", fires="193d",
         labels=ROOT, interval="1h"),
    Case("CountersignRootExpiresSoon", PLUGGED_IN, lives(f'certificate="last_root",{HERE},pod="a"', *OF_A_QUARTER), quiet="200d", fires="202d",
         labels=ROOT, interval="1h"),
    # while the next one is there already, nobody has anything to do until that ends: a sample a day
    *(Case(alert, PLUGGED_IN, {**lives(f'certificate="root",{HERE},pod="a"', (40 * DAY - YEARS, 40 * DAY, 39), (0, YEARS, 4000)),
                               **lives(f'certificate="last_root",{HERE},pod="a"', (0, YEARS, 4000))}, quiet="39d", fires="3622d", labels=ROOT, interval="1d")
      for alert in ("CountersignRootExpiring", "CountersignRootExpiresSoon")),
    # the pair's own has a successor 30 days before its end, if all is well
    Case("CountersignRootExpiring", OWN_ROOT, lives(f'certificate="last_root",{HERE},pod="a"', of_years(40)), quiet="11d", fires="13d", labels=ROOT,
         interval="1h"),
    Case("CountersignRootExpiresSoon", OWN_ROOT, lives(f'certificate="last_root",{HERE},pod="a"', of_years(40)), quiet="25d", fires="27d",
         labels=ROOT, interval="1h"),
    # the next one signs 5 days before the end, if all is well
    Case("CountersignJwtKeyExpiring", OWN_ROOT,
         {f'countersign_certificate_expiry_timestamp_seconds{{certificate="jwt_key",{HERE},pod="a"}}': f"{30 * DAY}x1000"},
         quiet="25d", fires="27d", labels={"certificate": "jwt_key", **RELEASE}, interval="1h"),
    Case("CountersignRotationRefused", OWN_ROOT, {f'countersign_rotation_refused{{authority="x509",{HERE},pod="a"}}': "0x10 1x60",
                                                  f'countersign_rotation_refused{{authority="jwt",{HERE},pod="a"}}': "0x70"},
         quiet="19m", fires="22m", labels={"authority": "x509", **RELEASE}),
    Case("CountersignStateAltered", PLUGGED_IN, {f'countersign_state_altered{{{HERE},pod="a"}}': "0x10 1x20"},
         quiet="11m", fires="13m", labels=RELEASE),
    Case("CountersignRootsNotDistributed", PLUGGED_IN,
         {f'countersign_root_places{{kind="config_map",state="conflict",{HERE}}}': "0x10 2x60",
          f'countersign_root_places{{kind="config_map",state="wanted",{HERE}}}': "9x70"},
         quiet="20m", fires="22m", labels={"kind": "config_map", "state": "conflict", **RELEASE}),
    Case("CountersignTrustNotAcknowledged", PLUGGED_IN,
         {f'countersign_trust_followers{{state="behind",{HERE},pod="a"}}': "0x10 1x60",
          f'countersign_trust_followers{{state="current",{HERE},pod="a"}}': "4x70"},
         quiet="19m", fires="22m", labels=RELEASE),
    # last answered at 10 minutes, each 5 minutes
    Case("CountersignFederatedBundleStale", PLUGGED_IN,
         {f'countersign_federated_bundle_fetched_timestamp_seconds{{trust_domain="other.example",{HERE},pod="a"}}': "0+60x10 600x80",
          f'countersign_federated_bundle_interval_seconds{{trust_domain="other.example",{HERE},pod="a"}}': "300x90"},
         quiet="29m", fires="32m", labels={"namespace": "countersign", "trust_domain": "other.example"}),
    Case("CountersignIstiodUnreachable", ISTIOD, {f'countersign_istiod_reachable{{{HERE},pod="a"}}': "1x10 0x60"},
         quiet="15m", fires="17m", labels=OURS),
    Case("CountersignIstiodBadAnswer", ISTIOD,
         {f'countersign_istiod_requests_total{{outcome="bad_answer",{HERE},pod="a"}}': "0x10 1x60"},
         quiet="10m", fires="13m", labels={"outcome": "bad_answer", **OURS}),
    Case("CountersignIstiodLimited", ISTIOD,
         {f'countersign_istiod_requests_total{{outcome="limited",{HERE},pod="a"}}': "0x10 1+1x60"},
         quiet="20m", fires="30m", labels={"outcome": "limited", **OURS}),
    Case("CountersignAuthorityNotTaken", PLUGGED_IN,
         {f'countersign_authority_reloads_total{{outcome="refused",{HERE},pod="a"}}': "0x10 1x60"},
         quiet="10m", fires="13m", labels={"outcome": "refused", **OURS}),
    Case("CountersignPolicyObjectsBehind", PLUGGED_IN,
         {f'countersign_policy_objects{{kind="Secret",state="wanted",{HERE},pod="a"}}': "5x90",
          f'countersign_policy_objects{{kind="Secret",state="right",{HERE},pod="a"}}': "5x10 4x80"},
         quiet="25m", fires="28m", labels={"kind": "Secret", **RELEASE}),
    Case("CountersignPolicyConflict", PLUGGED_IN,
         {f'countersign_gateway_conditions{{reason="Conflicted",{HERE},pod="a"}}': "_x10 1x60",
          f'countersign_gateway_conditions{{reason="Http2NotExplicit",{HERE},pod="a"}}': "4x70"},
         quiet="24m", fires="27m", labels={"reason": "Conflicted", **RELEASE}),
]


@dataclass
class Fault:
    """An alert, what it is made to fire by (a function of chart_checks/faults.py, or a recording of another test), and after how many
    minutes it must be there; with labels, if it has others of no matter."""

    alert: str
    values: dict
    recording: str
    after: int
    labels: str = ""


FAULTS = [
    Fault("CountersignCertificateExpiring", ISTIOD, "without_authority", 40),
    Fault("CountersignCertificateExpiresNow", ISTIOD, "without_authority", 42),
    Fault("CountersignOutputExpiring", ISTIOD, "without_authority", 33),
    Fault("CountersignRenewalFailing", ISTIOD, "without_authority", 42),
    Fault("CountersignOutputNotVerified", ISTIOD, "lost_output", 12),
    Fault("CountersignSvidRejected", ISTIOD, "of_another_domain", 10),
    Fault("CountersignSecretRefused", ISTIOD, "refused_secret", 7),
    Fault("CountersignClockSkew", ISTIOD, "clock_behind", 6),
    Fault("CountersignAgentMissing", ISTIOD, "crashing_agent", 15),
    Fault("CountersignNoActive", ISTIOD, "hanging_active", 2),
    Fault("CountersignTwoActive", ISTIOD, "two_pairs", 3),
    Fault("CountersignReplicaMissing", ISTIOD, "hanging_active", 11),
    Fault("CountersignRequestsFailing", ISTIOD, "without_istiod", 15),
    Fault("CountersignRootExpiring", PLUGGED_IN, "near_its_end", 61),
    Fault("CountersignRootExpiresSoon", PLUGGED_IN, "near_its_end", 61),
    Fault("CountersignAuthorityExpiring", PLUGGED_IN, "near_its_end", 61),
    Fault("CountersignAuthorityExpiring", PLUGGED_IN, "above_at_its_end", 61, 'certificate="intermediate"'),
    Fault("CountersignAuthorityExpiring", OWN_ROOT, "imported_at_its_end", 61),
    # what is seen has ten minutes more
    *(Fault("CountersignPairAuthorityExpiring", values, "pair_authority_at_its_end", 75) for values in (PLUGGED_IN, OWN_ROOT, ISTIOD_JWT)),
    Fault("CountersignBundleEndpointExpiring", PLUGGED_IN, "web_certificate_at_its_end", 61),
    Fault("CountersignFederatedBundleExpiring", PLUGGED_IN, "other_domain_at_its_end", 61),
    Fault("CountersignFederatedBundleExpiring", ISTIOD_JWT, "other_domain_of_istiod_at_its_end", 61),
    Fault("CountersignJwtKeyExpiring", OWN_ROOT, "jwt_key_at_its_end", 61),
    Fault("CountersignRotationRefused", OWN_ROOT, "imported_at_its_end", 12),
    *(Fault("CountersignStateAltered", values, "state_deleted", 2) for values in (PLUGGED_IN, ISTIOD_JWT)),
    Fault("CountersignRootsNotDistributed", PLUGGED_IN, "roots_of_others", 11),
    *(Fault("CountersignTrustNotAcknowledged", values, "deaf_follower", 11) for values in (PLUGGED_IN, ISTIOD_JWT)),
    # three of its intervals, which are a minute, and five
    *(Fault("CountersignFederatedBundleStale", values, "without_the_other", 9) for values in (PLUGGED_IN, ISTIOD_JWT)),
    Fault("CountersignIstiodUnreachable", ISTIOD, "without_istiod", 10),
    Fault("CountersignIstiodBadAnswer", ISTIOD, "of_another_domain", 5),
    Fault("CountersignIstiodLimited", ISTIOD, "too_many", 28),
    Fault("CountersignAuthorityNotTaken", PLUGGED_IN, "unusable_authority", 2),
    Fault("CountersignPolicyObjectsBehind", PLUGGED_IN, "objects_not_taken", 16),
    Fault("CountersignPolicyConflict", PLUGGED_IN, "policy_of_others", 16),
]


def rules(values: dict) -> dict:
    return of_kind(read(render(values)), "PrometheusRule")[0]["spec"]


def promtool(*arguments: str) -> str:
    done = subprocess.run([str(PEERS / "bin" / "promtool"), *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Broken(f"promtool {arguments[1]}: {done.stdout}{done.stderr}")
    return done.stdout


def test_of(case: Case, described: Dict[str, dict]) -> dict:
    rule = described[case.alert]
    alert = {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": rule["annotations"]}
    return {"name": f"{case.alert} at {case.fires}", "interval": case.interval,
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
            "alert_rule_test": [{"alertname": case.alert, "eval_time": case.quiet, "exp_alerts": []},
                                {"alertname": case.alert, "eval_time": case.fires, "exp_alerts": [alert]}]}


def check(values: dict, folder: Path) -> Dict[str, str]:
    """What the alerts that there are with these values ask for; each has a case."""
    spec = rules(values)
    described = {rule["alert"]: rule for rule in spec["groups"][0]["rules"]}
    (folder / "rules.json").write_text(json.dumps(spec))
    promtool("check", "rules", str(folder / "rules.json"))
    cases = [case for case in CASES if case.values is values]
    files = []
    # promtool reads samples beyond the end of a case as absent; its rules are evaluated as often as samples come, so only the one that counts
    for alert, interval in sorted({(case.alert, case.interval) for case in cases}):
        tests = [test_of(case, described) for case in cases if (case.alert, case.interval) == (alert, interval)]
        (folder / f"{alert}.json").write_text(json.dumps({"groups": [{"name": alert, "rules": [described[alert]]}]}))
        files.append(folder / f"{alert}-{interval}.json")
        files[-1].write_text(json.dumps({"rule_files": [f"{alert}.json"], "evaluation_interval": interval, "tests": tests}))
    promtool("test", "rules", *map(str, files))
    return {alert: rule["expr"] for alert, rule in described.items()}


def check_faults(alerts: Dict[str, str]) -> Set[str]:
    """Each alert by what was there while its fault was; the names of all that was shown."""
    unfaulted = alerts.keys() ^ {fault.alert for fault in FAULTS}
    if unfaulted:
        raise Broken(f"no row, or one too many, of FAULTS is about {', '.join(sorted(unfaulted))}")
    found = {**recordings.left(), **faults.recorded()}
    missing = {fault.recording for fault in FAULTS} - found.keys()
    if missing:
        raise Broken(f"no test has left a recording of {', '.join(sorted(missing))}: python3 tests/run.py has all of them run before")
    for values in ALL_VALUES:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "rules.json").write_text(json.dumps(rules(values)))
            tests = [recordings.replay(fault.alert, found[fault.recording], fault.after, fault.labels) for fault in FAULTS if fault.values is values]
            (place / "faults.json").write_text(json.dumps({"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests}))
            promtool("test", "rules", str(place / "faults.json"))
    return {name for recording in found.values() for name in recording.names()}


def main() -> int:
    try:
        provide()
        install_go("promtool", *PROMTOOL, "cmd")(Step(3, "promtool", "6 min, once", 40 * 60, lambda _: None))
        alerts: Dict[str, str] = {}
        for values in ALL_VALUES:
            with tempfile.TemporaryDirectory() as folder:
                alerts.update(check(values, Path(folder)))
        untested = alerts.keys() - {case.alert for case in CASES}
        if untested:
            raise Broken(f"no case tests {', '.join(sorted(untested))}")
        shown = check_faults(alerts)
        scrapes = scraped()
        # some of what there is in a cluster is there under a fault alone
        for name, recording in recordings.left().items():
            for pod, page in recording.rounds[-1][1].items():
                scrapes.add(f"{name}-{pod}", page)
        is_as_told(scrapes)
        has_beginnings(scrapes)
        queries = answers(scrapes, alerts, shown, promtool)
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    say(f"{len(CASES)} cases of {len(alerts)} alerts, each by a fault of real processes as well; {queries}, {len(scrapes.series)} series")
    return 0


if __name__ == "__main__":
    sys.exit(main())
