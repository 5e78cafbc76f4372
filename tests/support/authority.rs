//! Certificate authorities that are made while the test runs, and directories with their files.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use countersign::domain::x509::pem;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::OsRng};
use tempfile::TempDir;

use super::mount::Mount;

const YEAR: Duration = Duration::from_secs(31_536_000);

/// The keys that an authority may sign with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa(usize),
    /// As PKCS#1.
    OldRsa(usize),
}

/// A certificate, its key, and those above it up to the root.
pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// PKCS#8.
    pub(crate) key_der: Vec<u8>,
    /// Itself first, the root last.
    pub(crate) chain: Vec<String>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        Self::new(name, Kind::P256, None, YEAR)
    }

    /// Valid since an hour and for `lifetime` from now.
    pub(crate) fn root_for(name: &str, lifetime: Duration) -> Self {
        Self::new(name, Kind::P256, None, lifetime)
    }

    pub(crate) fn below(&self, name: &str, kind: Kind) -> Self {
        Self::new(name, kind, Some(self), YEAR)
    }

    /// Valid since an hour and for `lifetime` from now.
    pub(crate) fn below_for(&self, name: &str, lifetime: Duration) -> Self {
        Self::new(name, Kind::P256, Some(self), lifetime)
    }

    fn new(name: &str, kind: Kind, above: Option<&Self>, lifetime: Duration) -> Self {
        let (pair, key) = kind.key();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = above.is_some();
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = (SystemTime::now() + lifetime).into();
        let signed = match above {
            Some(above) => params.signed_by(&pair, &above.issuer).unwrap(),
            None => params.self_signed(&pair).unwrap(),
        };
        let certificate = signed.pem().replace("\r\n", "\n");
        let chain = std::iter::once(certificate.clone()).chain(above.iter().flat_map(|above| above.chain.clone()));
        Self {
            chain: chain.collect(),
            key,
            key_der: pair.serialize_der(),
            issuer: Issuer::from_ca_cert_der(signed.der(), pair).unwrap(),
            certificate,
        }
    }

    /// As `cacerts`, published with `roots`.
    pub(crate) fn cacerts(&self, roots: &str) -> Files {
        Files(vec![
            ("ca-cert.pem", self.certificate.clone()),
            ("ca-key.pem", self.key.clone()),
            ("cert-chain.pem", self.chain.concat()),
            ("root-cert.pem", roots.to_owned()),
        ])
    }

    /// A certificate for one SPIFFE ID with those above it but the root, and its key, both as PEM.
    pub(crate) fn svid(&self, id: &str) -> (String, String) {
        self.leaf(SanType::URI(id.try_into().unwrap()))
    }

    /// The same for a host name.
    pub(crate) fn server(&self, name: &str) -> (String, String) {
        self.leaf(SanType::DnsName(name.try_into().unwrap()))
    }

    /// The same for an address.
    pub(crate) fn server_at(&self, address: IpAddr) -> (String, String) {
        self.leaf(SanType::IpAddress(address))
    }

    fn leaf(&self, subject: SanType) -> (String, String) {
        let (pair, key) = Kind::P256.key();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![subject];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        let leaf = params.signed_by(&pair, &self.issuer).unwrap().pem().replace("\r\n", "\n");
        let (_root, below) = self.chain.split_last().unwrap();
        (leaf + &below.concat(), key)
    }

    /// As a Secret of type `kubernetes.io/tls`.
    pub(crate) fn tls(&self, roots: &str) -> Files {
        let (_root, below) = self.chain.split_last().unwrap();
        Files(vec![("tls.crt", below.concat()), ("tls.key", self.key.clone()), ("ca.crt", roots.to_owned())])
    }
}

impl Kind {
    /// A key, and its PEM text in the encoding that is to be read.
    fn key(self) -> (KeyPair, String) {
        let generated = |algorithm| {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let text = pair.serialize_pem();
            (pair, text)
        };
        match self {
            Self::P256 => generated(&PKCS_ECDSA_P256_SHA256),
            Self::P384 => generated(&PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => generated(&PKCS_ED25519),
            Self::Rsa(bits) | Self::OldRsa(bits) => {
                let key = RsaPrivateKey::new(&mut OsRng, bits).unwrap();
                let newer = pem::encode("PRIVATE KEY", key.to_pkcs8_der().unwrap().as_bytes());
                let pair = KeyPair::from_pem_and_sign_algo(&newer, &PKCS_RSA_SHA256).unwrap();
                let text = match self {
                    Self::OldRsa(_) => pem::encode("RSA PRIVATE KEY", key.to_pkcs1_der().unwrap().as_bytes()),
                    Self::P256 | Self::P384 | Self::Ed25519 | Self::Rsa(_) => newer,
                };
                (pair, text.to_string())
            }
        }
    }
}

/// One set of files.
#[derive(Clone)]
pub(crate) struct Files(Vec<(&'static str, String)>);

impl Files {
    /// With another content of one file.
    pub(crate) fn with(mut self, name: &str, content: &str) -> Self {
        self.0.iter_mut().find(|(file, _)| *file == name).unwrap().1 = content.to_owned();
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(file, _)| *file != name);
        self
    }

    /// Writes them to `folder`, which is made if it is missing.
    pub(crate) fn write_to(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in &self.0 {
            fs::write(folder.join(name), content).unwrap();
        }
    }
}

/// A directory for `--ca-dir`.
pub(crate) struct CaDir {
    mount: Mount,
    _folder: TempDir,
}

impl CaDir {
    /// Plain files.
    pub(crate) fn plain(files: &Files) -> Self {
        let dir = Self::empty();
        dir.write(files);
        dir
    }

    /// As the kubelet mounts a Secret.
    pub(crate) fn mounted(files: &Files) -> Self {
        let dir = Self::empty();
        dir.swap(files);
        dir
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { mount: Mount::at(folder.path().to_owned()), _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// The flag and its value.
    pub(crate) fn flags(&self) -> [&str; 2] {
        ["--ca-dir", self.path().to_str().unwrap()]
    }

    /// Replaces plain files, one after the other.
    pub(crate) fn write(&self, files: &Files) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let name = entry.unwrap().file_name();
            if files.0.iter().all(|(file, _)| name != *file) {
                fs::remove_file(self.path().join(name)).unwrap();
            }
        }
        files.write_to(self.path());
    }

    /// Replaces mounted files at once, as the kubelet does.
    pub(crate) fn swap(&self, files: &Files) {
        self.mount.swap(files.0.iter().map(|(name, content)| (*name, content.as_bytes())));
    }
}
