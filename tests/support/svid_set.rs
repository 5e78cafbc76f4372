//! Files of an SVID as a careful reader sees them, judged without our code: key, certificates and roots belong together.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use rcgen::{KeyPair, PublicKeyData};
use x509_parser::{pem::Pem, prelude::X509Certificate};

use super::certificate::Certificate;

/// One set, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SvidSet {
    pub(crate) leaf: Certificate,
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) roots: String,
}

impl SvidSet {
    /// Reads what a directory of files holds: `..data` is resolved once, as the first of all. Nothing in it may contradict
    /// anything else.
    pub(crate) fn read(directory: &Path) -> Result<Self, String> {
        let named = |error: std::io::Error| format!("{}: {error}", directory.display());
        let set = directory.join(fs::read_link(directory.join("..data")).map_err(named)?);
        let text = |name: &str| {
            let mut text = String::new();
            let read = File::open(set.join(name)).and_then(|mut file| file.read_to_string(&mut text));
            read.map(|_| text).map_err(|error| format!("torn: {}/{name}: {error}", set.display()))
        };
        let found = Self::of(&text("tls.crt")?, &text("tls.key")?, &text("ca.crt")?)?;
        for (name, same) in [("cert-chain.pem", &found.chain), ("key.pem", &found.key), ("root-cert.pem", &found.roots)]
        {
            if text(name)? != *same {
                return Err(format!("torn: {name} of {} differs", set.display()));
            }
        }
        let flat = |text: &str| text.split_whitespace().collect::<String>();
        let sds = [("sds-default.yaml", [&found.chain, &found.key]), ("sds-rootca.yaml", [&found.roots, &found.roots])];
        for (name, parts) in sds {
            let yaml = flat(&text(name)?);
            if !parts.iter().all(|part| yaml.contains(&flat(part))) {
                return Err(format!("torn: {name} of {} differs", set.display()));
            }
        }
        Ok(found)
    }

    /// From the three texts.
    pub(crate) fn of(chain: &str, key: &str, roots: &str) -> Result<Self, String> {
        let blocks = |text: &str| -> Result<Vec<Pem>, String> {
            Pem::iter_from_buffer(text.as_bytes()).map(|block| block.map_err(|error| error.to_string())).collect()
        };
        let (chain_blocks, root_blocks) = (blocks(chain)?, blocks(roots)?);
        let parsed = |blocks: &'_ [Pem]| -> Result<Vec<Vec<u8>>, String> {
            blocks.iter().map(|block| Ok(block.contents.clone())).collect()
        };
        let (chain_ders, root_ders) = (parsed(&chain_blocks)?, parsed(&root_blocks)?);
        let certificates = |ders: &[Vec<u8>]| -> Result<usize, String> {
            ders.iter().try_for_each(|der| certificate(der).map(drop)).map(|()| ders.len())
        };
        if certificates(&chain_ders)? == 0 || certificates(&root_ders)? == 0 {
            return Err("torn: no certificate".into());
        }
        let leaf = certificate(&chain_ders[0])?;
        let pair = KeyPair::from_pem(key).map_err(|error| format!("torn: the key: {error}"))?;
        if pair.subject_public_key_info() != leaf.public_key().raw {
            return Err("torn: the key is another certificate's".into());
        }
        for link in chain_ders.windows(2) {
            signed_by(&link[0], &link[1])?;
        }
        let last = chain_ders.last().unwrap();
        if !root_ders.iter().any(|root| signed_by(last, root).is_ok()) {
            return Err("torn: no root has signed the chain".into());
        }
        let leaf = Certificate::from_der(&chain_ders[0]);
        Ok(Self { leaf, chain: chain.to_owned(), key: key.to_owned(), roots: roots.to_owned() })
    }
}

fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed).map_err(|error| format!("torn: {error}"))
}

fn signed_by(certificate_der: &[u8], issuer_der: &[u8]) -> Result<(), String> {
    let (certificate, issuer) = (certificate(certificate_der)?, certificate(issuer_der)?);
    let verified = certificate.verify_signature(Some(issuer.public_key()));
    verified.map_err(|error| format!("torn: signature: {error}"))
}
