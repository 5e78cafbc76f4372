//! Spans of the real processes: one trace from an agent's renewal to the signature, and no harm by a collector.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::{
    caller::Caller,
    pair::{Place, role},
    socket::fetch,
    support::{
        authority::Authority,
        collector::{self, Collector, Seen},
        countersign::{Agent, Serve},
        http::{free_port, loopback},
        wait::wait_until,
    },
    turn,
};

const SOON: Duration = Duration::from_secs(20);
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const CREATE: &str = "istio.v1.auth.IstioCertificateService/CreateCertificate";
const FORWARD: &str = "countersign.v1.PairService/CreateCertificate";

#[test]
fn one_trace_leads_from_an_agents_renewal_by_the_standby_to_the_signature() {
    let _turn = turn::beside_others();
    let (place, collector) = (Place::new(), Collector::start());
    let replicas = ["serve-0", "serve-1"].map(|name| serve(name, &place, &collector.variables(name)));
    let standby = replicas.iter().position(|replica| role(replica).unwrap().is_none()).expect("a standby");
    let names = [["serve-0", "serve-1"][standby], ["serve-0", "serve-1"][1 - standby]];
    let agent = agent(&place, &replicas[standby], &collector.variables("agent"));
    let svid = fetch(&agent.socket).spiffe_id;

    let trace = wait_until(SOON, "a trace that ends with the agent's renewal", || {
        let spans = collector.spans();
        let renewal = spans.iter().find(|span| span.process == "agent" && span.name == "renewal").cloned();
        let renewal = renewal.ok_or_else(|| format!("{spans:#?}"))?;
        let trace: Vec<_> = spans.into_iter().filter(|span| span.trace == renewal.trace).collect();
        // the processes export one after the other
        if trace.len() >= 8 { Ok(trace) } else { Err(format!("{trace:#?}")) }
    });
    let [standby_name, active_name] = names;
    let lines: Vec<_> = leaf_first(&trace, "signing").iter().map(|span| line(span)).collect();
    let expected = [
        (active_name, "signing", INTERNAL),
        (active_name, FORWARD, SERVER),
        (standby_name, FORWARD, CLIENT),
        (standby_name, CREATE, SERVER),
        ("agent", CREATE, CLIENT),
        ("agent", "renewal", INTERNAL),
    ];
    assert_eq!(lines, expected.map(|(process, name, kind)| (process.to_owned(), name.to_owned(), kind)));
    for step in ["attestation", "entitlement"] {
        assert_eq!(line(leaf_first(&trace, step)[1]), lines[1], "{step} is beside signing");
    }
    assert!(trace.iter().all(|span| !span.is_error), "{trace:#?}");
    assert_eq!(find(&trace, "renewal").attribute("spiffe_id"), Some(svid));
    assert!(collector.metadata().iter().all(|metadata| metadata.contains("of-the-test")), "headers by the variable");

    let id: String = find(&trace, "renewal").trace.iter().map(|byte| format!("{byte:02x}")).collect();
    let log = replicas[1 - standby].process.errors();
    let issued = log.lines().find(|line| line.contains("certificate_issued") && line.contains(&id));
    let issued = issued.unwrap_or_else(|| panic!("no line of trace {id}:\n{log}"));
    let issued: serde_json::Value = serde_json::from_str(issued).expect("the line is JSON as before");
    assert_eq!(issued["trace_id"], id);
}

#[test]
fn a_refusal_is_the_callers_and_a_sampler_can_leave_all_out() {
    let _turn = turn::beside_others();
    let (place, collector) = (Place::new(), Collector::start());
    let replica = serve("serve", &place, &collector.variables("serve"));
    let caller = Caller::new(&place.data(), "default/client");
    let runtime = Runtime::new().unwrap();
    let ask = |port, token: &str| {
        runtime.block_on(async { caller.sign_with(&caller.connection(port), token, &caller.csr).await })
    };
    ask(replica.port, "no.token.this").expect_err("a bad token");
    let (attestation, call) = wait_until(SOON, "the refusal", || {
        let spans = collector.spans();
        let attestation = spans.iter().find(|span| span.name == "attestation" && span.is_error).cloned();
        let attestation = attestation.ok_or_else(|| format!("{spans:#?}"))?;
        let call = spans.into_iter().find(|span| span.id == attestation.parent);
        Ok::<_, String>((attestation, call.ok_or("no call yet")?))
    });
    assert_eq!((call.name.as_str(), call.is_error), (CREATE, false), "the server is not at fault: {attestation:?}");
    assert_eq!(call.attribute("rpc.grpc.status_code").as_deref(), Some("16"));

    let mut variables = collector.variables("off");
    variables.push(("OTEL_TRACES_SAMPLER".to_owned(), "always_off".to_owned()));
    let mut silent = serve("off", &place, &variables);
    ask(silent.port, &caller.token).expect("a good one");
    silent.process.signal(Signal::TERM);
    assert!(silent.process.wait_for_end(SOON).success());
    assert!(collector.spans().iter().all(|span| span.process != "off"), "what is left is exported at the end");
}

#[test]
fn a_collector_over_tls_is_verified_by_the_roots_in_a_file_and_shown_a_certificate() {
    let _turn = turn::beside_others();
    let (place, own) = (Place::new(), Authority::root("collector"));
    let collector = Collector::start_over_tls(&own);
    let runtime = Runtime::new().unwrap();
    let start = |name: &str, authority: &Authority, shown: &Authority| {
        let (certificate, key) = shown.server(name);
        let mut variables = collector.variables(name);
        for (what, pem) in
            [("CERTIFICATE", &authority.certificate), ("CLIENT_CERTIFICATE", &certificate), ("CLIENT_KEY", &key)]
        {
            let file = place.logs().join(format!("{name}-{what}.pem"));
            fs::write(&file, pem).unwrap();
            variables.push((format!("OTEL_EXPORTER_OTLP_{what}"), file.display().to_string()));
        }
        let replica = serve(name, &place, &variables);
        let caller = Caller::new(&place.data(), "default/client");
        let asked = runtime.block_on(async { caller.sign(&caller.connection(replica.port)).await });
        asked.expect("a certificate, whatever the collector is");
        replica
    };
    let _believing = start("believing", &own, &own);
    wait_until(SOON, "a span over TLS", || {
        let spans = collector.spans();
        let is_there = spans.iter().any(|span| span.process == "believing" && span.name == CREATE);
        if is_there { Ok(()) } else { Err(format!("{spans:#?}")) }
    });
    assert!(collector.metadata().iter().all(|metadata| metadata.contains("of-the-test")), "headers by the variable");
    let other = Authority::root("somebody else's");
    for (name, authority, shown) in [("doubting", &other, &own), ("doubted", &own, &other)] {
        let refused = start(name, authority, shown);
        wait_until(SOON, "a refusal", || {
            let log = refused.process.errors();
            if log.contains("traces_not_exported") { Ok(()) } else { Err(log) }
        });
    }
    assert!(
        collector.spans().iter().all(|span| span.process == "believing"),
        "an unknown collector or client has spans"
    );
}

#[test]
fn a_collector_that_hangs_or_is_gone_neither_delays_a_request_nor_the_exit() {
    let _turn = turn::alone();
    let hanging = TcpListener::bind(loopback(0)).unwrap();
    for (what, address) in [("hangs", hanging.local_addr().unwrap()), ("is gone", loopback(free_port()))] {
        let place = Place::new();
        let mut variables = collector::variables(address, "serve");
        variables.push(("OTEL_BSP_MAX_QUEUE_SIZE".to_owned(), "16".to_owned()));
        let mut replica = serve("serve", &place, &variables);
        let mut agent = agent(&place, &replica, &variables);
        fetch(&agent.socket);
        let caller = Caller::new(&place.data(), "default/client");
        let begun = Instant::now();
        Runtime::new().unwrap().block_on(async {
            let connection = caller.connection(replica.port);
            for _ in 0..200 {
                caller.sign(&connection).await.expect("a certificate, whatever the collector does");
            }
        });
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "the collector {what}: 200 requests took {took:?}");
        for process in [&mut agent.process, &mut replica.process] {
            let begun = Instant::now();
            process.signal(Signal::TERM);
            assert!(process.wait_for_end(SOON).success(), "the collector {what}");
            let took = begun.elapsed();
            println!("the collector {what}: leaving took {took:?}");
            assert!(took < LEAVING, "the collector {what}: leaving took {took:?}");
        }
    }
}

#[test]
fn what_can_not_be_exported_is_said_and_no_reason_not_to_serve() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let mut variables = collector::variables(loopback(free_port()), "serve");
    variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "http/protobuf".to_owned()));
    let replica = serve("serve", &place, &variables);
    let log = replica.process.errors();
    assert!(log.contains("traces_off") && log.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{log}");
}

/// A drain, and what the last spans may take.
const LEAVING: Duration = Duration::from_secs(4);

fn serve(name: &str, place: &Place, variables: &[(String, String)]) -> Serve {
    let flags = ["--log-format", "json", "--drain", "0s"];
    let replica = Serve::spawn_with(name, place.logs(), &place.data(), free_port(), &flags, variables);
    replica.wait_until_ready();
    replica
}

fn agent(place: &Place, replica: &Serve, variables: &[(String, String)]) -> Agent {
    let addresses = [replica.address()];
    Agent::start_under("agent", place.logs(), &place.data(), "default/agent", &addresses, variables)
}

fn find<'a>(trace: &'a [Seen], name: &str) -> &'a Seen {
    trace.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
}

/// A span, what it is below, and so on to the root.
fn leaf_first<'a>(trace: &'a [Seen], leaf: &str) -> Vec<&'a Seen> {
    let by_id: BTreeMap<_, _> = trace.iter().map(|span| (&span.id, span)).collect();
    let mut path = vec![find(trace, leaf)];
    while let Some(parent) = by_id.get(&path[path.len() - 1].parent) {
        path.push(parent);
        assert!(path.len() <= trace.len(), "a circle: {trace:#?}");
    }
    let root = path[path.len() - 1];
    assert!(root.parent.is_empty(), "the parent of {root:?} was not exported: {trace:#?}");
    path
}

fn line(span: &Seen) -> (String, String, i32) {
    (span.process.clone(), span.name.clone(), span.kind)
}
