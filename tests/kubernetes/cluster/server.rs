//! The files and command lines of etcd and the API server.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

use crate::support::{http::free_port, peer::peer_path};

/// All verbs, without bodies. A watch is written when it begins, since its end may be far.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// Where the servers run.
#[derive(Clone)]
pub(crate) struct Place {
    /// What the API server listens on.
    pub(crate) address: IpAddr,
    /// A command that runs another one there, for example in a network namespace; empty for here.
    pub(crate) enter: Vec<String>,
}

impl Place {
    /// Here, on 127.0.0.1.
    pub(crate) fn loopback() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), enter: Vec::new() }
    }

    fn command(&self, program: &str) -> Command {
        let program = peer_path(program);
        match self.enter.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

pub(super) struct Files {
    folder: PathBuf,
    place: Place,
    flags: Vec<String>,
    etcd_ports: [u16; 2],
    pub(super) address: SocketAddr,
    pub(super) root: String,
}

impl Files {
    /// Makes all keys and writes them to `folder`.
    pub(super) fn write(folder: &Path, place: &Place, flags: &[&str]) -> Self {
        let files = Self {
            folder: folder.to_owned(),
            place: place.clone(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            etcd_ports: [free_port(), free_port()],
            address: (place.address, free_port()).into(),
            root: write_serving_certificate(folder, place.address),
        };
        let accounts = KeyPair::generate().unwrap();
        files.put("service-accounts.key", &accounts.serialize_pem());
        files.put("service-accounts.pub", &accounts.public_key_pem());
        let random = KeyPair::generate().unwrap();
        let token: String = random.public_key_raw().iter().map(|byte| format!("{byte:02x}")).collect();
        files.put("tokens.csv", &format!("{token},admin,admin,system:masters\n"));
        files.put("audit.yaml", AUDIT_POLICY);
        files.write_kubeconfig(&files.admin_kubeconfig(), &json!({ "token": token }), &files.url());
        files
    }

    pub(super) fn etcd(&self) -> Command {
        let [clients, peers] = self.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = self.place.command("etcd");
        command.arg("--data-dir").arg(self.folder.join("etcd-data")).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--log-level", "warn"]);
        command
    }

    pub(super) fn api_server(&self) -> Command {
        let mut command = self.place.command("kube-apiserver");
        let file = |name: &str| self.folder.join(name);
        command.arg("--etcd-servers").arg(format!("http://127.0.0.1:{}", self.etcd_ports[0]));
        command.arg("--bind-address").arg(self.address.ip().to_string());
        command.arg("--secure-port").arg(self.address.port().to_string());
        command.arg("--cert-dir").arg(file("certs"));
        command.arg("--tls-cert-file").arg(file("server.pem"));
        command.arg("--tls-private-key-file").arg(file("server.key"));
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.arg("--service-account-key-file").arg(file("service-accounts.pub"));
        command.arg("--service-account-signing-key-file").arg(file("service-accounts.key"));
        command.args(["--api-audiences", "https://kubernetes.default.svc,istio-ca"]);
        command.arg("--token-auth-file").arg(file("tokens.csv"));
        command.args(["--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16"]);
        command.args(["--allow-privileged", "--endpoint-reconciler-type", "none"]);
        // nothing runs that would make each namespace's default service account, which it waits for
        command.args(["--disable-admission-plugins", "ServiceAccount"]);
        command.args(["--feature-gates", "ClusterTrustBundle=true"]);
        command.args(["--runtime-config", "certificates.k8s.io/v1beta1/clustertrustbundles=true"]);
        command.arg("--audit-policy-file").arg(file("audit.yaml"));
        command.arg("--audit-log-path").arg(self.audit_log());
        command.args(&self.flags);
        command
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A kubeconfig for the user that `user` describes, who finds the API server at `server`.
    pub(super) fn write_kubeconfig(&self, path: &Path, user: &serde_json::Value, server: &str) {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": {
                "server": server, "certificate-authority-data": STANDARD.encode(&self.root),
            } }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        });
        fs::write(path, serde_json::to_string_pretty(&text).unwrap()).unwrap();
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }
}

/// Writes `server.pem` and `server.key`: the root above them.
fn write_serving_certificate(folder: &Path, address: IpAddr) -> String {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "cluster root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::from_params(&root, root_key);

    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(["localhost".to_owned(), "kubernetes.default.svc".to_owned()]).unwrap();
    server.subject_alt_names.extend([address, Ipv4Addr::LOCALHOST.into()].map(SanType::IpAddress));
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    root_certificate.pem()
}
