//! The server under test and its clients.

use std::{fs, path::PathBuf, process::Stdio, sync::Arc};

use countersign::proto::istio::v1::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring::default_provider, ring::sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    sign::CertifiedKey,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{certificates::ClientCertificate, der};
use crate::support::{
    countersign::{Serve, countersign, root_file},
    http::{self, free_port, loopback},
    process::Process,
};

/// A `countersign serve` that logs all it can.
pub(crate) struct Server {
    pub(crate) serve: Serve,
    pub(crate) data: PathBuf,
    pub(crate) root: CertificateDer<'static>,
    folder: TempDir,
}

/// As long as anything may take that is not refused.
pub(crate) const LIMIT: std::time::Duration = std::time::Duration::from_secs(15);

impl Server {
    /// Starts one with a second token issuer, given as its YAML list, and waits until its own certificates are issued.
    pub(crate) fn start(files: &[(&str, &str)], token_issuers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let (data, config) = (folder.path().join("data"), folder.path().join("config.yaml"));
        fs::write(&config, token_issuers.replace("FOLDER", &folder.path().display().to_string())).unwrap();
        let (port, admin_port) = (free_port(), free_port());
        let mut command = countersign();
        command.arg("serve").arg("--data-dir").arg(&data).arg("--config").arg(&config);
        command.arg("--listen").arg(loopback(port).to_string());
        command.arg("--admin-listen").arg(loopback(admin_port).to_string());
        command.env("COUNTERSIGN_LOG", "debug");
        let process = Process::start("serve", folder.path(), &mut command);
        let serve = Serve { process, port, admin_port };
        serve.wait_until_ready();
        let root = crate::support::wait::wait_until(LIMIT, "the trust bundle", || {
            fs::read_to_string(root_file(&data)).map_err(|error| error.to_string())
        });
        let root = der::from_pem(&root).into();
        let server = Self { serve, data, root, folder };
        crate::support::wait::wait_until(LIMIT, "its own two certificates", || match server.issued() {
            2 => Ok(()),
            other => Err(format!("{other} issued")),
        });
        server
    }

    /// What `/metrics` counts as issued.
    pub(crate) fn issued(&self) -> u64 {
        let page = http::get(loopback(self.serve.admin_port), "/metrics").unwrap();
        let line = r#"countersign_certificate_requests_total{outcome="issued"} "#;
        let count = page.lines().find_map(|text| text.strip_prefix(line));
        count.unwrap_or_else(|| panic!("no {line} in\n{page}")).parse().unwrap()
    }

    /// What `countersign issuance list` shows.
    pub(crate) fn listed(&self) -> Vec<Value> {
        let mut command = countersign();
        command.args(["issuance", "list", "-o", "json", "--data-dir"]).arg(&self.data).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "issuance list: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All that it wrote.
    pub(crate) fn said(&self) -> String {
        self.serve.process.output() + &self.serve.process.errors()
    }

    /// A token that the server's own command makes.
    pub(crate) fn minted_token(&self, account: &str) -> String {
        let path = self.folder.path().join("token");
        crate::support::countersign::write_token(&self.data, account, &path);
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// A client with the usual TLS, and a certificate if there is one.
    pub(crate) fn channel(&self, certificate: Option<&ClientCertificate>) -> Channel {
        self.channel_over(self.tls(default_provider(), &[], certificate))
    }

    /// A client with exactly this TLS.
    pub(crate) fn channel_over(&self, tls: ClientConfig) -> Channel {
        let (port, connector) = (self.serve.port, TlsConnector::from(Arc::new(tls)));
        Endpoint::from_shared(format!("http://{}", self.serve.address()))
            .unwrap()
            .timeout(LIMIT)
            .connect_with_connector_lazy(service_fn(move |_| {
                let connector = connector.clone();
                async move {
                    let tcp = TcpStream::connect(loopback(port)).await?;
                    connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.map(TokioIo::new)
                }
            }))
    }

    /// TLS of these versions (all if none is named) and the provider's suites, with ALPN `h2`.
    pub(crate) fn tls(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
        certificate: Option<&ClientCertificate>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
        let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match certificate {
            Some(certificate) => config.with_client_cert_resolver(Arc::new(Unchecked::new(certificate))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// `CreateCertificate` with these values of `authorization`.
pub(crate) async fn create(
    channel: Channel,
    authorization: &[String],
    message: IstioCertificateRequest,
) -> Result<Vec<String>, Status> {
    let mut request = Request::new(message);
    for value in authorization {
        request.metadata_mut().append("authorization", value.parse().unwrap());
    }
    let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
    Ok(answer.into_inner().cert_chain)
}

/// Presents a certificate whatever its state, and even with the key of another.
#[derive(Debug)]
struct Unchecked(Arc<CertifiedKey>);

impl Unchecked {
    fn new(certificate: &ClientCertificate) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.key.clone()));
        Self(Arc::new(CertifiedKey::new(certificate.chain.clone(), any_supported_type(&key).unwrap())))
    }
}

impl ResolvesClientCert for Unchecked {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
