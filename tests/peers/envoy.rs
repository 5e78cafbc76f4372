//! A running Envoy, and what the one that stands for the service writes down about its callers.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    envoy_config::LISTENER,
    peer::peer,
    support::{http, process::Process, wait::wait_until},
};

const START: Duration = Duration::from_secs(10);

/// An Envoy on ports that the system chose.
pub(crate) struct Envoy {
    _process: Process,
    /// Its listener. Bound at once; it accepts only when Envoy has warmed up.
    pub(crate) address: SocketAddr,
}

impl Envoy {
    /// Starts one with a configuration of [`crate::envoy_config`].
    pub(crate) fn start(name: &str, dir: &Path, config: &Value) -> Self {
        let (config_file, admin_file) = (dir.join(format!("{name}.json")), dir.join(format!("{name}.admin")));
        fs::write(&config_file, config.to_string()).unwrap();
        let mut command = peer("envoy");
        command.arg("--config-path").arg(config_file).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "100"]);
        let process = Process::start(name, dir, &mut command);

        let what = format!("the listener of Envoy {name}");
        let address = wait_until(START, &what, || {
            let written = fs::read_to_string(&admin_file).map_err(|error| error.to_string())?;
            let admin = written.parse().map_err(|error| format!("{written:?}: {error}"))?;
            let listeners = http::get(admin, "/listeners?format=json")?;
            listener_port(&listeners).ok_or(listeners)
        });
        Self { _process: process, address: http::loopback(address) }
    }
}

fn listener_port(listeners: &str) -> Option<u16> {
    let listeners: Value = serde_json::from_str(listeners).ok()?;
    let ours = listeners["listener_statuses"].as_array()?.iter().find(|status| status["name"] == LISTENER)?;
    u16::try_from(ours["local_address"]["socket_address"]["port_value"].as_u64()?).ok()
}

/// One request as the backend saw it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: String,
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_after: f64,
    /// Seconds since 1970.
    pub(crate) start: f64,
}

/// The access log of the backend.
pub(crate) struct AccessLog(pub(crate) PathBuf);

impl AccessLog {
    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(request).collect()
    }

    /// The distinct serials that `client` has shown so far.
    pub(crate) fn serials(&self, client: &str) -> BTreeSet<String> {
        self.requests().into_iter().filter(|request| request.client == client).map(|request| request.serial).collect()
    }
}

fn request(line: &str) -> Request {
    let fields: Value = serde_json::from_str(line).expect("a JSON line in the access log");
    let text = |name: &str| match &fields[name] {
        Value::String(text) => text.clone(),
        other => panic!("{name} is {other} in {line}: no certificate was shown"),
    };
    let seconds = |name: &str| match &fields[name] {
        Value::Number(number) => number.as_f64().unwrap(),
        _ => text(name).parse().unwrap(),
    };
    Request { client: text("uri"), serial: text("serial"), not_after: seconds("not_after"), start: seconds("start") }
}
