//! A running Envoy, and what the one that stands for the service writes down about its callers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    envoy_config::LISTENER,
    support::{http, peer::peer, process::Process, wait::wait_until},
};

const START: Duration = Duration::from_secs(10);

/// An Envoy on ports that the system chose.
pub(crate) struct Envoy {
    _process: Process,
    /// When it was started.
    pub(crate) started: Instant,
    /// Its listener. Bound at once; it accepts only when Envoy has warmed up.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
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
        let (started, process) = (Instant::now(), Process::start(name, dir, &mut command));

        let what = format!("the listener of Envoy {name}");
        let (address, admin) = wait_until(START, &what, || {
            let written = fs::read_to_string(&admin_file).map_err(|error| error.to_string())?;
            let admin = written.parse().map_err(|error| format!("{written:?}: {error}"))?;
            let listeners = http::get(admin, "/listeners?format=json")?;
            listener_port(&listeners).map(|port| (port, admin)).ok_or(listeners)
        });
        Self { _process: process, started, address: http::loopback(address), admin }
    }

    /// How many times it has taken secrets, and how many it has refused: as a whole, or the files that they name.
    pub(crate) fn secrets_taken_and_refused(&self) -> (u64, u64) {
        let taken = self.counted("sds.*update_success$");
        (taken, self.counted("sds.*update_rejected$") + self.counted("sds.*key_rotation_failed$"))
    }

    /// How many connections to the service were resumed sessions, for which nobody looks at certificates.
    pub(crate) fn sessions_resumed(&self) -> u64 {
        self.counted("^cluster.backend.ssl.session_reused$")
    }

    /// How many certificates of callers it has refused.
    pub(crate) fn callers_refused(&self) -> u64 {
        self.counted("^listener.*ssl.fail_verify_error$")
    }

    /// What it holds by SDS.
    pub(crate) fn secrets(&self) -> Result<Secrets, String> {
        Secrets::of(self.admin)
    }

    /// The sum of its counters of such names, of which there is one at least.
    fn counted(&self, names: &str) -> u64 {
        let stats = http::get(self.admin, &format!("/stats?filter={names}")).unwrap();
        let values = stats.lines().filter_map(|line| line.split_once(": "));
        let values: Vec<u64> = values.map(|(_, value)| value.parse().unwrap()).collect();
        assert!(!values.is_empty(), "no counter {names}");
        values.iter().sum()
    }
}

fn listener_port(listeners: &str) -> Option<u16> {
    let listeners: Value = serde_json::from_str(listeners).ok()?;
    let ours = listeners["listener_statuses"].as_array()?.iter().find(|status| status["name"] == LISTENER)?;
    u16::try_from(ours["local_address"]["socket_address"]["port_value"].as_u64()?).ok()
}

/// What an Envoy got by SDS.
pub(crate) struct Secrets {
    /// Leaf first, as PEM.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) roots: String,
}

impl Secrets {
    /// What the Envoy with this admin port holds now.
    pub(crate) fn of(admin: SocketAddr) -> Result<Self, String> {
        Self::verifying_by("ROOTCA", admin)
    }

    /// The same of one that verifies by the bundle of this name.
    pub(crate) fn verifying_by(bundle: &str, admin: SocketAddr) -> Result<Self, String> {
        let dump = http::get(admin, "/config_dump")?;
        let dump: Value = serde_json::from_str(&dump).map_err(|error| error.to_string())?;
        let part = |kind: &str| -> Option<&Value> {
            let parts = dump["configs"].as_array()?;
            parts.iter().find(|part| part["@type"].as_str().is_some_and(|name| name.ends_with(kind)))
        };
        let secrets = part("SecretsConfigDump").ok_or("no secrets in the dump")?;
        let text = |name: &str, path: &str| -> Result<String, String> {
            let all = secrets["dynamic_active_secrets"].as_array();
            let one = all.into_iter().flatten().find(|secret| secret["name"] == name);
            let bytes = one.and_then(|secret| secret["secret"].pointer(path)?.as_str());
            let bytes = bytes.ok_or_else(|| format!("no secret {name}: {secrets}"))?;
            Ok(String::from_utf8(STANDARD.decode(bytes).unwrap()).unwrap())
        };
        Ok(Self {
            chain: text("default", "/tls_certificate/certificate_chain/inline_bytes")?,
            roots: text(bundle, "/validation_context/trusted_ca/inline_bytes")?,
        })
    }
}

/// One request as the backend saw it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: String,
    pub(crate) path: String,
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_after: f64,
    /// Seconds since 1970.
    pub(crate) start: f64,
}

/// The access log of the backend, read on as it grows.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    path: PathBuf,
    bytes_read: usize,
    requests: Vec<Request>,
    serials: BTreeMap<String, BTreeSet<String>>,
}

impl AccessLog {
    /// The log that an Envoy will write to `path`.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, ..Self::default() }
    }

    /// Every request so far.
    pub(crate) fn requests(&mut self) -> &[Request] {
        self.read_on();
        &self.requests
    }

    /// How many distinct serials `client` has shown so far.
    pub(crate) fn serials(&mut self, client: &str) -> usize {
        self.read_on();
        self.serials.get(client).map_or(0, BTreeSet::len)
    }

    fn read_on(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(u64::try_from(self.bytes_read).unwrap())).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        // What stands behind the last line end is still being written.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        for request in text[..complete].lines().map(request) {
            self.serials.entry(request.client.clone()).or_default().insert(request.serial.clone());
            self.requests.push(request);
        }
        self.bytes_read += complete;
    }
}

fn request(line: &str) -> Request {
    let fields: Value = serde_json::from_str(line).expect("a JSON line in the access log");
    // Envoy writes null where there is no certificate, and numbers as JSON numbers or strings.
    let text = |name: &str| {
        let value = &fields[name];
        assert!(!value.is_null(), "no {name} in {line}: the caller showed no certificate");
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let seconds = |name: &str| text(name).parse().expect("seconds since 1970");
    let (client, path, serial) = (text("uri"), text("path"), text("serial"));
    Request { client, path, serial, not_after: seconds("not_after"), start: seconds("start") }
}
