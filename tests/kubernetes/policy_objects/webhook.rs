//! An admission webhook that has no time.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};

use crate::support::authority::Authority;

/// Where it is.
pub(super) struct BusyWebhook {
    pub(super) address: SocketAddr,
    /// PEM.
    pub(super) roots: String,
}

impl BusyWebhook {
    /// At one of the addresses of this process. It answers everything with 429, to be asked again after so many seconds.
    pub(super) fn start(address: IpAddr, retry_after: u64) -> Self {
        let authority = Authority::root("webhook");
        let (chain, key) = authority.server_at(address);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = StreamOwned::new(connection, stream);
                thread::spawn(move || serve(stream, retry_after));
            }
        });
        Self { address, roots: authority.certificate }
    }
}

/// One request after the other, until the other end has no more.
fn serve(stream: StreamOwned<ServerConnection, TcpStream>, retry_after: u64) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = request(&mut stream) {
        let status = json!({ "code": 429, "message": "busy", "details": { "retryAfterSeconds": retry_after } });
        let answer = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": { "uid": asked["request"]["uid"], "allowed": false, "status": status },
        });
        let (answer, stream) = (answer.to_string(), stream.get_mut());
        let kind = "content-type: application/json";
        if write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len()).is_err() {
            return;
        }
        let _flushed = stream.flush();
    }
}

fn request(stream: &mut impl BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).ok()?;
        if read == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
