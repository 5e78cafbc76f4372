//! A signing authority from files: the two layouts in which istiod takes a plugged-in CA, and what a set must fulfil.
//! Where the files come from is not known here.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::{AuthorityError, SigningAuthority};
use crate::domain::{
    clock::Timestamp,
    identity::TrustDomain,
    x509::{BundleError, Certificate, CertificateError, PrivateKey, PrivateKeyError, RevocationLists, TrustBundle},
};

/// How the files of a set are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in a Secret of type `kubernetes.io/tls`: `tls.crt`, `tls.key`, `ca.crt`. The chain is `tls.crt`, then `ca.crt`.
    Tls,
    /// As in istiod's Secret `cacerts`: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`, and perhaps
    /// `ca-crl.pem`.
    Cacerts,
}

/// The files of one set, as they were read at one instant. They hold a key, so they are wiped when dropped.
pub struct AuthorityFiles {
    layout: Layout,
    contents: BTreeMap<&'static str, Zeroizing<Vec<u8>>>,
}

/// Why a set of files is not a signing authority. Each names the file to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluggedInError {
    /// Neither layout.
    #[error(
        "there are no CA files: put tls.crt, tls.key and ca.crt there, or ca-cert.pem, ca-key.pem, root-cert.pem and \
         cert-chain.pem"
    )]
    Nothing,
    /// A part of a set.
    #[error("incomplete signing CA bundle: {} missing beside {}", missing.join(", "), present.join(", "))]
    Incomplete {
        /// What there is.
        present: Vec<&'static str>,
        /// What there should be.
        missing: Vec<&'static str>,
    },
    /// A file of certificates can't be used.
    #[error("{file}: {error}")]
    Certificate {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        error: CertificateError,
    },
    /// The key can't be used.
    #[error("{file}: {error}")]
    Key {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        error: PrivateKeyError,
    },
    /// The roots are no trust bundle.
    #[error("{file}: {error}")]
    Roots {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        error: BundleError,
    },
    /// The roots are passed on as they are written, in messages that hold text.
    #[error("{0}: not text: keep only PEM blocks and ASCII or UTF-8 comments")]
    NotText(&'static str),
    /// The key is another certificate's.
    #[error("{key} is not the key of {certificate}: replace both together")]
    OtherKey {
        /// The key's file.
        key: &'static str,
        /// The certificate's.
        certificate: &'static str,
    },
    /// The signing certificate is missing in the chain.
    #[error(
        "{chain} does not begin with the signing certificate of {certificate}: put that first, then what is above it"
    )]
    OtherChain {
        /// The chain's file.
        chain: &'static str,
        /// The certificate's.
        certificate: &'static str,
    },
    /// The signing certificate can't be used.
    #[error("{file}: {error}")]
    Unusable {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        error: AuthorityError,
    },
    /// The revocation lists can't be read.
    #[error("{file}: {error}")]
    RevocationLists {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        error: String,
    },
    /// Whoever is given revocation lists wants one of each authority on the path.
    #[error("{file}: missing CRL signed by certificates: [{}]: add theirs, or remove the file", subjects.join("; "))]
    NoRevocationList {
        /// Its name.
        file: &'static str,
        /// The certificates of the chain whose list is missing.
        subjects: Vec<String>,
    },
}

impl Layout {
    /// The layout of a place where there is a file [`Self::MARK`], or none.
    pub const fn of(mark_exists: bool) -> Self {
        if mark_exists { Self::Tls } else { Self::Cacerts }
    }

    /// What tells the layouts apart.
    pub const MARK: &str = "tls.crt";

    /// The names of all files of the layout, also of those that may be missing.
    pub const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &["tls.crt", "tls.key", "ca.crt"],
            Self::Cacerts => &["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem", CRL],
        }
    }

    /// The file with the key.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Tls => "tls.key",
            Self::Cacerts => "ca-key.pem",
        }
    }

    const fn certificate(self) -> &'static str {
        match self {
            Self::Tls => "tls.crt",
            Self::Cacerts => "ca-cert.pem",
        }
    }

    const fn roots(self) -> &'static str {
        match self {
            Self::Tls => "ca.crt",
            Self::Cacerts => "root-cert.pem",
        }
    }

    const fn chain(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &["tls.crt", "ca.crt"],
            Self::Cacerts => &["cert-chain.pem"],
        }
    }
}

const CRL: &str = "ca-crl.pem";

impl AuthorityFiles {
    /// The files that there are, by the names that `layout` has for them.
    pub const fn new(layout: Layout, contents: BTreeMap<&'static str, Zeroizing<Vec<u8>>>) -> Self {
        Self { layout, contents }
    }

    /// SHA-256 over names and contents: the same for the same set.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for (name, content) in &self.contents {
            for part in [name.as_bytes(), content.as_slice()] {
                context.update(&part.len().to_be_bytes());
                context.update(part);
            }
        }
        let mut digest = [0; 32];
        digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }

    /// Checks the whole set and makes the authority that signs with it at `now`: everything must be there, the key must be
    /// the certificate's, the certificate a CA's in its validity, the chain must begin with it and lead to a root that is
    /// valid too, and if there are revocation lists, each certificate of the chain must have signed one.
    ///
    /// # Errors
    ///
    /// The first thing that doesn't fit.
    pub fn authority(&self, trust_domain: &TrustDomain, now: Timestamp) -> Result<SigningAuthority, PluggedInError> {
        self.check_completeness()?;
        let layout = self.layout;
        let certificate = self.signing_certificate()?;
        let key = self.private_key()?;
        let roots_file = layout.roots();
        let roots = self.content(roots_file);
        let bundle = TrustBundle::from_pem(trust_domain.clone(), roots)
            .map_err(|error| PluggedInError::Roots { file: roots_file, error })?;
        let roots = String::from_utf8(roots.to_vec()).or(Err(PluggedInError::NotText(roots_file)))?;
        let chain = self.chain(&certificate, &bundle)?;
        self.check_revocation_lists(&chain)?;
        let authority = SigningAuthority::from_parts(certificate, &key, chain, bundle, now);
        let authority = authority.map_err(|error| match error {
            AuthorityError::Key => PluggedInError::OtherKey { key: layout.key(), certificate: layout.certificate() },
            error @ (AuthorityError::NotAuthority(_) | AuthorityError::Chain(_) | AuthorityError::Build(_)) => {
                PluggedInError::Unusable { file: layout.certificate(), error }
            }
        })?;
        Ok(authority.with_roots_as_written(roots))
    }

    /// The key alone, unchecked: of a set that [`Self::authority`] takes it is the signing certificate's.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub fn private_key(&self) -> Result<PrivateKey, PluggedInError> {
        let file = self.layout.key();
        PrivateKey::from_pem(self.content(file)).map_err(|error| PluggedInError::Key { file, error })
    }

    fn check_completeness(&self) -> Result<(), PluggedInError> {
        let required = self.layout.files().iter().copied().filter(|file| *file != CRL);
        let (present, missing): (Vec<_>, Vec<_>) = required.partition(|file| self.contents.contains_key(file));
        match (present.is_empty(), missing.is_empty()) {
            (_, true) => Ok(()),
            (true, false) => Err(PluggedInError::Nothing),
            (false, false) => Err(PluggedInError::Incomplete { present, missing }),
        }
    }

    /// The first certificate of its file; cert-manager writes what is above it into the same file.
    fn signing_certificate(&self) -> Result<Certificate, PluggedInError> {
        let file = self.layout.certificate();
        let certificates = Certificate::all_from_pem(self.content(file));
        let first = certificates.map(|certificates| certificates.into_iter().next());
        first
            .and_then(|first| first.ok_or_else(|| CertificateError::Pem("it is empty".into())))
            .map_err(|error| PluggedInError::Certificate { file, error })
    }

    /// What is sent above a leaf. The file may be empty for a root that signs by itself.
    fn chain(&self, certificate: &Certificate, bundle: &TrustBundle) -> Result<Vec<Certificate>, PluggedInError> {
        let mut chain = Vec::new();
        for file in self.layout.chain() {
            let content = self.content(file);
            if !content.trim_ascii().is_empty() {
                let certificates = Certificate::all_from_pem(content);
                chain.extend(certificates.map_err(|error| PluggedInError::Certificate { file, error })?);
            }
        }
        let fits = chain.first().map_or_else(|| bundle.roots().contains(certificate), |first| first == certificate);
        let file = self.layout.chain().first().copied().unwrap_or_default();
        if fits {
            Ok(chain)
        } else {
            Err(PluggedInError::OtherChain { chain: file, certificate: self.layout.certificate() })
        }
    }

    fn check_revocation_lists(&self, chain: &[Certificate]) -> Result<(), PluggedInError> {
        let content = self.content(CRL);
        if content.trim_ascii().is_empty() {
            return Ok(());
        }
        let lists = RevocationLists::from_pem(content)
            .map_err(|error| PluggedInError::RevocationLists { file: CRL, error: error.to_string() })?;
        let without = chain.iter().filter(|certificate| !lists.has_one_of(certificate));
        let subjects: Vec<_> = without.map(|certificate| certificate.subject().to_owned()).collect();
        if subjects.is_empty() { Ok(()) } else { Err(PluggedInError::NoRevocationList { file: CRL, subjects }) }
    }

    /// Nothing if there is no such file.
    fn content(&self, file: &str) -> &[u8] {
        self.contents.get(file).map_or(&[], |content| content.as_slice())
    }
}

#[cfg(test)]
mod tests;
