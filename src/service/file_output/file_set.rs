//! What stands in the files of one SVID.

use std::fmt::{self, Write};

use zeroize::Zeroizing;

use crate::domain::x509::{TrustBundle, X509Svid};

/// All files of one SVID; made together, written together.
pub struct FileSet([OutputFile; 8]);

/// One of them.
pub struct OutputFile {
    /// Its name in the directory.
    pub name: &'static str,
    /// PEM or YAML.
    pub content: Zeroizing<String>,
}

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

impl FileSet {
    /// Under the names that Istio's agent gives them, those of a Secret of type `kubernetes.io/tls`, and as what an Envoy reads
    /// when its SDS source is a file: secrets `default` and `ROOTCA`, self-contained, so that no path in them can be wrong.
    pub fn new(svid: &X509Svid, bundle: &TrustBundle) -> Self {
        let chain = Zeroizing::new(svid.chain().to_pem());
        let roots = Zeroizing::new(bundle.to_pem());
        let key = svid.key().to_pem();
        let file = |name, content: &Zeroizing<String>| OutputFile { name, content: content.clone() };
        Self([
            file("cert-chain.pem", &chain),
            file("key.pem", &key),
            file("root-cert.pem", &roots),
            file("tls.crt", &chain),
            file("tls.key", &key),
            file("ca.crt", &roots),
            OutputFile { name: "sds-default.yaml", content: tls_certificate(&chain, &key) },
            OutputFile { name: "sds-rootca.yaml", content: validation_context(&roots) },
        ])
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &OutputFile> {
        self.0.iter()
    }
}

impl fmt::Debug for FileSet {
    /// Names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|file| file.name)).finish()
    }
}

fn tls_certificate(chain: &str, key: &str) -> Zeroizing<String> {
    let mut yaml = secret("default", chain.len() + 2 * key.len());
    yaml.push_str("  tls_certificate:\n    certificate_chain:\n");
    inline(&mut yaml, chain);
    yaml.push_str("    private_key:\n");
    inline(&mut yaml, key);
    yaml
}

fn validation_context(roots: &str) -> Zeroizing<String> {
    let mut yaml = secret("ROOTCA", roots.len());
    yaml.push_str("  validation_context:\n    trusted_ca:\n");
    inline(&mut yaml, roots);
    yaml
}

/// A DiscoveryResponse's beginning. Its room is enough for the rest: a text that grows leaves copies of a key behind.
fn secret(name: &str, content: usize) -> Zeroizing<String> {
    let mut yaml = Zeroizing::new(String::with_capacity(2 * content + 1024));
    // writing to a string can't fail
    let _infallible = write!(yaml, "resources:\n- \"@type\": {SECRET}\n  name: {name}\n");
    yaml
}

/// PEM as a literal block: none of its characters means anything to YAML there.
fn inline(yaml: &mut String, pem: &str) {
    yaml.push_str("      inline_string: |\n");
    for line in pem.lines() {
        yaml.push_str("        ");
        yaml.push_str(line);
        yaml.push('\n');
    }
}

#[cfg(test)]
impl FileSet {
    /// All names with one content.
    pub(crate) fn of_test(content: &str) -> Self {
        let names = ["cert-chain.pem", "key.pem", "root-cert.pem", "tls.crt", "tls.key", "ca.crt", "a.yaml", "b.yaml"];
        Self(names.map(|name| OutputFile { name, content: Zeroizing::new(content.to_owned()) }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_yaml_ng::Value;

    use super::*;
    use crate::domain::{
        authority::{
            SigningAuthority, Subject, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    };

    /// A new one that is good for an hour.
    pub(in crate::service::file_output) fn svid(authority: &SigningAuthority) -> X509Svid {
        let id = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let hour = Duration::from_secs(3600);
        let (subject, bounds) = (Subject { id: &id, server_names: &[] }, TtlBounds::new(hour, hour).unwrap());
        let leaf = issue(authority, &csr, subject, 0, &bounds, NOW, &TestRandom).unwrap().leaf;
        X509Svid::new(CertificateChain::new(vec![leaf]).unwrap(), key).unwrap()
    }

    #[test]
    fn every_name_holds_the_same_svid_and_the_yaml_is_what_envoy_reads() {
        let authority = authority();
        let svid = svid(&authority);
        let set = FileSet::new(&svid, authority.bundle());
        let text = |name: &str| set.iter().find(|file| file.name == name).unwrap().content.to_string();
        let (chain, key, roots) = (svid.chain().to_pem(), svid.key().to_pem().to_string(), authority.bundle().to_pem());
        let pairs = [("cert-chain.pem", "tls.crt"), ("key.pem", "tls.key"), ("root-cert.pem", "ca.crt")];
        for ((istio, kubernetes), expected) in pairs.into_iter().zip([&chain, &key, &roots]) {
            assert_eq!([text(istio), text(kubernetes)], [expected.clone(), expected.clone()], "{istio}");
        }
        let secret = |name: &str| {
            let yaml: Value = serde_yaml_ng::from_str(&text(name)).unwrap();
            let resources = yaml["resources"].as_sequence().unwrap().clone();
            assert_eq!(resources.len(), 1, "Envoy takes exactly one");
            assert_eq!(resources[0]["@type"], SECRET);
            resources[0].clone()
        };
        let own = secret("sds-default.yaml");
        assert_eq!(own["name"], "default");
        assert_eq!(own["tls_certificate"]["certificate_chain"]["inline_string"], chain.as_str());
        assert_eq!(own["tls_certificate"]["private_key"]["inline_string"], key.as_str());
        let root = secret("sds-rootca.yaml");
        assert_eq!(root["name"], "ROOTCA");
        assert_eq!(root["validation_context"]["trusted_ca"]["inline_string"], roots.as_str());
    }

    #[test]
    fn shows_no_key() {
        let authority = authority();
        let shown = format!("{:?}", FileSet::new(&svid(&authority), authority.bundle()));
        assert!(shown.contains("tls.key") && !shown.contains("BEGIN"), "{shown}");
    }
}
