//! What nobody may read in logs, metrics or spans, at the most talkative level.

use std::{fs, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::runtime::Runtime;

use crate::{
    caller::Caller,
    pair::Place,
    socket::fetch,
    support::{
        collector::Collector,
        countersign::{ca_address, countersign, root_file, write_token},
        http::{self, free_port, loopback},
        process::Process,
        wait::wait_until,
    },
    turn,
};

const START: Duration = Duration::from_secs(20);

#[test]
fn no_secret_is_written_anywhere_at_any_level() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let data = place.data();
    let (ports, admin_ports) = ([free_port(), free_port()], [free_port(), free_port()]);
    let collector = Collector::start();
    let mut processes: Vec<Process> =
        (0..2).map(|index| serve(&place, index, ports[index], admin_ports[index], &collector)).collect();
    let caller = Caller::new(&data, "default/client");
    let token_file = place.logs().join("agent.token");
    write_token(&data, "default/agent", &token_file);
    let socket = place.logs().join("agent.sock");
    processes.push(agent(&place, &socket, &token_file, &ports, &collector));
    wait_until(START, "the agent's socket", || fs::metadata(&socket));
    let keys = [&data.join("workload.sock"), &socket].map(|socket| fetch(socket).x509_svid_key);
    let tokens = ask_well_and_badly(&caller, &data, &ports);

    let mut written: Vec<(String, String)> = processes
        .iter()
        .enumerate()
        .flat_map(|(index, process)| {
            [(format!("stdout {index}"), process.output()), (format!("stderr {index}"), process.errors())]
        })
        .collect();
    for port in admin_ports {
        for path in ["/metrics", "/readyz"] {
            written.push((format!("{path} of {port}"), http::get(loopback(port), path).unwrap()));
        }
    }
    wait_until(START, "the spans of the requests, refused ones too, and of the agent", || {
        let spans = collector.spans();
        let has = |process, name| spans.iter().any(|span| span.process == process && span.name == name);
        let is_refused = spans.iter().any(|span| span.name == "attestation" && span.is_error);
        if has("agent", "renewal") && has("serve", "signing") && is_refused {
            Ok(())
        } else {
            Err(format!("{spans:#?}"))
        }
    });
    written.push(("spans".to_owned(), String::from_utf8_lossy(&collector.raw()).into_owned()));
    let traced = written.iter().filter(|(_, text)| text.contains("TRACE")).count();
    assert_eq!(traced, processes.len(), "the logs are not at level trace");

    let mut secrets = vec!["PRIVATE KEY".to_owned()];
    secrets.extend(tokens.iter().map(|token| token.rsplit('.').next().unwrap().to_owned()));
    secrets.extend(fs::read_to_string(token_file).unwrap().trim().rsplit('.').next().map(str::to_owned));
    secrets.extend(keys.iter().flat_map(|key| spellings(key)));
    secrets.extend(pem_bodies(&fs::read(data.join("token-issuer.key")).unwrap()));
    secrets.extend(pem_bodies(&fs::read(data.join("state/db")).unwrap()));
    assert!(secrets.len() > 12, "{} secrets: some were not found", secrets.len());
    for (place, text) in &written {
        for (index, secret) in secrets.iter().enumerate() {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            // which secret is told by its number: the failure is a log too
            assert!(line.is_none(), "{place} has secret {index}: {:.60}…", line.unwrap_or_default());
        }
    }
}

fn serve(place: &Place, index: usize, port: u16, admin_port: u16, collector: &Collector) -> Process {
    let mut command = talkative("serve", collector);
    command.arg("serve").arg("--data-dir").arg(place.data()).args(["--listen", &loopback(port).to_string()]);
    command.args(["--admin-listen", &loopback(admin_port).to_string()]);
    let process = Process::start(&format!("serve-{index}"), place.logs(), &mut command);
    wait_until(START, "serve ready", || http::get(loopback(admin_port), "/readyz"));
    process
}

fn agent(place: &Place, socket: &Path, token_file: &Path, ports: &[u16], collector: &Collector) -> Process {
    let mut command = talkative("agent", collector);
    command.arg("agent").arg("--socket").arg(socket).arg("--token-file").arg(token_file);
    command.arg("--root-file").arg(root_file(&place.data()));
    for port in ports {
        command.args(["--ca-address", &ca_address(*port)]);
    }
    Process::start("agent", place.logs(), &mut command)
}

fn talkative(name: &str, collector: &Collector) -> Command {
    let mut command = countersign();
    command.env("COUNTERSIGN_LOG", "trace").envs(collector.variables(name));
    command
}

/// Requests of every outcome at each port; the tokens that were sent.
fn ask_well_and_badly(caller: &Caller, data: &Path, ports: &[u16]) -> Vec<String> {
    let made =
        countersign().args(["token", "default/client", "--audience", "elsewhere", "--data-dir"]).arg(data).output();
    let elsewhere = String::from_utf8(made.unwrap().stdout).unwrap().trim().to_owned();
    let cut = caller.token[..caller.token.len() - 4].to_owned();
    let runtime = Runtime::new().unwrap();
    for port in ports {
        runtime.block_on(async {
            let connection = caller.connection(*port);
            caller.sign(&connection).await.expect("a good request");
            caller.sign_with(&connection, &elsewhere, &caller.csr).await.expect_err("another audience");
            caller.sign_with(&connection, &cut, &caller.csr).await.expect_err("a token cut short");
            caller.sign_with(&connection, &caller.token, "no request").await.expect_err("no PEM");
        });
    }
    vec![caller.token.clone(), elsewhere, cut]
}

/// The bodies of the private keys in a file, line by line.
fn pem_bodies(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content).replace("\\n", "\n");
    let keys = text.split("-----BEGIN PRIVATE KEY-----").skip(1);
    let bodies = keys.map(|rest| rest.split("-----END").next().unwrap_or_default().trim());
    let lines: Vec<String> = bodies.flat_map(str::lines).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "no key in the file");
    // as text, and as the bytes of that text
    lines.iter().map(|line| listed(&line.as_bytes()[..line.len().min(24)])).chain(lines.clone()).collect()
}

/// A PKCS#8 key in base64, and its secret number (RFC 5915: behind `04 20`) as people and programs print bytes.
fn spellings(key: &[u8]) -> Vec<String> {
    let at = key.windows(2).position(|window| window == [4, 32]).expect("a P-256 key") + 2;
    let number = &key[at..at + 32];
    let hex: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = STANDARD.encode(key);
    vec![base64[48..96].to_owned(), hex, listed(&number[..12])]
}

/// As `{:?}` prints them.
fn listed(bytes: &[u8]) -> String {
    format!("{bytes:?}").trim_matches(['[', ']']).to_owned()
}
