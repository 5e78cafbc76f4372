//! Certificate and key of an endpoint, in files that somebody else writes: an operator, cert-manager, the kubelet from a Secret.
//! Here they are only read.

use std::{
    io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::files::read_bounded;

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

impl EndpointFiles {
    /// Reads both, once, as they are now; not of one another if somebody is just replacing them. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// When one is missing, or can't be read. Names it.
    pub fn read(&self) -> io::Result<EndpointContents> {
        Ok(EndpointContents { certificate: content(&self.certificate)?, key: content(&self.key)? })
    }
}

fn content(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let content = read_bounded(path).map_err(named)?;
    content.map(|(content, _mode)| content).ok_or_else(|| named(io::ErrorKind::NotFound.into()))
}
