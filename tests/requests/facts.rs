//! What rows are made of: keys, issuers, and what the server itself has issued.

use std::{fs, time::Duration};

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use ring::signature::RsaKeyPair;

use super::{
    certificates::ClientCertificate,
    csr::{Csr, ECDSA_SHA256, info_of, rsa_pkcs8},
    der,
    row::Row,
    server::{Server, create},
    tokens::{Issuer, Key, header_of, now},
};
use crate::support::{certificate::Certificate, wait::wait_until};

/// The account that most rows ask for.
pub(crate) const ACCOUNT: &str = "default/gateway";
pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";

pub(crate) struct Keys {
    pub(crate) p256: KeyPair,
    pub(crate) p384: KeyPair,
    pub(crate) ed25519: KeyPair,
    pub(crate) rsa: KeyPair,
}

pub(crate) struct Facts {
    pub(crate) keys: Keys,
    /// Good, P-256.
    pub(crate) csr: String,
    /// Made by `countersign token`.
    pub(crate) token: String,
    /// The embedded issuer, with the server's own key.
    pub(crate) embedded: Issuer,
    /// Configured: RSA, other audiences, namespace `edge` alone.
    pub(crate) second: Issuer,
    /// Of `default/gateway`, valid.
    pub(crate) svid: ClientCertificate,
    /// The same, but its time is over.
    pub(crate) expired_svid: ClientCertificate,
    /// The certificate of the server's own root.
    pub(crate) root: ClientCertificate,
}

/// The issuer that the configuration adds.
pub(crate) fn second_issuer() -> Issuer {
    let key = RsaKeyPair::from_pkcs8(&rsa_pkcs8(2048)).unwrap();
    Issuer {
        name: "https://second.example".into(),
        audience: "mesh-ca".into(),
        kid: "rsa".into(),
        key: Key::Rs256(Box::new(key)),
    }
}

/// The configuration for it.
pub(crate) const SECOND_ISSUER: &str = "tokenIssuers:
  - issuer: https://second.example
    jwksFile: FOLDER/jwks.json
    audiences: [mesh-ca, other-ca]
    namespaces: [edge]
";

impl Facts {
    pub(crate) async fn gather(server: &Server, second: Issuer) -> Self {
        let rsa = rsa_pkcs8(2048);
        let keys = Keys {
            p256: KeyPair::generate().unwrap(),
            p384: KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
            ed25519: KeyPair::generate_for(&PKCS_ED25519).unwrap(),
            rsa: KeyPair::try_from(rsa).unwrap(),
        };
        let token = server.minted_token(ACCOUNT);
        let issuer_key = der::from_pem(&fs::read_to_string(server.data.join("token-issuer.key")).unwrap());
        let embedded = Issuer {
            name: "countersign:embedded".into(),
            audience: "istio-ca".into(),
            kid: header_of(&token)["kid"].as_str().unwrap().to_owned(),
            key: Key::Es256(issuer_key),
        };
        let svid = obtained(server, &token, 3600).await;
        let expired_svid = obtained(server, &token, 1).await;
        let not_after = Certificate::from_der(&expired_svid.chain[0]).not_after;
        wait_until(Duration::from_secs(10), "the end of an SVID of one second", || match now() {
            seconds if i64::try_from(seconds).unwrap() > not_after => Ok(()),
            seconds => Err(format!("it is {seconds}, NotAfter is {not_after}")),
        });
        let csr = Csr::of(info_of(&keys.p256), ECDSA_SHA256).pem(&keys.p256);
        let root = ClientCertificate { chain: vec![server.root.clone()], key: keys.p256.serialize_der() };
        Self { keys, csr, token, embedded, second, svid, expired_svid, root }
    }

    /// How many certificates [`gather`](Self::gather) had issued.
    pub(crate) const GATHERED: usize = 2;

    /// What must never stand in a log: the tokens of these rows, or the part of one that makes it valid, and all keys.
    pub(crate) fn secrets(&self, rows: &[Row]) -> Vec<String> {
        let mut secrets = vec![self.token.clone()];
        secrets.extend(rows.iter().flat_map(|row| &row.authorization).filter_map(|value| {
            let token = value.rsplit_once(' ').map_or(value.as_str(), |(_, token)| token);
            (token.len() > 20).then(|| token.to_owned())
        }));
        let signatures: Vec<_> =
            secrets.iter().filter_map(|token| Some(token.rsplit_once('.')?.1.to_owned())).collect();
        secrets.extend(signatures.into_iter().filter(|signature| signature.len() > 20));
        let Keys { p256, p384, ed25519, rsa } = &self.keys;
        let pems = [p256, p384, ed25519, rsa].map(KeyPair::serialize_pem);
        let Key::Es256(issuer) = &self.embedded.key else { panic!("the embedded issuer has an ECDSA key") };
        let pems =
            pems.into_iter().chain([&self.svid.key, &self.expired_svid.key, issuer].map(|key| der::pem("KEY", key)));
        // the first line of a key is alike for all keys of a kind, the second is not
        secrets.extend(pems.map(|pem| pem.lines().nth(2).unwrap_or_else(|| pem.lines().nth(1).unwrap()).to_owned()));
        secrets
    }
}

async fn obtained(server: &Server, token: &str, ttl: i64) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    let csr = Csr::of(info_of(&key), ECDSA_SHA256).pem(&key);
    let request =
        countersign::proto::istio::v1::auth::IstioCertificateRequest { csr, validity_duration: ttl, metadata: None };
    let chain = create(server.channel(None), &[format!("Bearer {token}")], request).await.unwrap();
    ClientCertificate { chain: vec![der::from_pem(&chain[0]).into()], key: key.serialize_der() }
}
