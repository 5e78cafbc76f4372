//! Certificate and key of an endpoint, in files that somebody else writes: an operator, cert-manager, the kubelet from a Secret.
//! Here they are only read.

use std::{
    io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{exposed_key::ExposedKey, files::read_bounded};

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFiles {
    /// PEM, the leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What was in them.
#[derive(PartialEq, Eq)]
pub struct EndpointContents {
    /// PEM.
    pub certificate: Zeroizing<Vec<u8>>,
    /// PEM. Wiped when dropped.
    pub key: Zeroizing<Vec<u8>>,
}

/// Reads them again and again.
#[derive(Debug)]
pub struct EndpointReader {
    files: EndpointFiles,
    exposed: ExposedKey,
}

impl EndpointReader {
    /// Nothing is read yet.
    pub const fn new(files: EndpointFiles) -> Self {
        Self { files, exposed: ExposedKey::new("bundle_endpoint_key_exposed") }
    }

    /// Where they are.
    pub const fn files(&self) -> &EndpointFiles {
        &self.files
    }

    /// Reads both, once, as they are now; not of one another if somebody is just replacing them. Warns of a key that others can
    /// read. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// When one is missing, or can't be read. Names it.
    pub fn read(&self) -> io::Result<EndpointContents> {
        let EndpointFiles { certificate, key } = &self.files;
        let (certificate, _mode) = content(certificate)?;
        let (content, mode) = content(key)?;
        self.exposed.warn_of_exposed_key(key, mode);
        Ok(EndpointContents { certificate, key: content })
    }
}

fn content(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    read_bounded(path).map_err(named)?.ok_or_else(|| named(io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn both_are_read_and_an_exposed_key_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        let reader = EndpointReader::new(EndpointFiles { certificate: certificate.clone(), key: key.clone() });
        fs::write(&certificate, "certificate").unwrap();
        let missing = reader.read().err().unwrap().to_string();
        assert!(missing.starts_with(&key.display().to_string()), "{missing}");
        fs::write(&key, "key").unwrap();
        for (mode, noted) in [(0o600, 0), (0o640, 0o640), (0o400, 0)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let read = reader.read().unwrap();
            assert_eq!((read.certificate.as_slice(), read.key.as_slice()), (&b"certificate"[..], &b"key"[..]));
            assert_eq!(reader.exposed.noted(), noted, "{mode:o}");
        }
    }
}
