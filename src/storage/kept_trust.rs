//! What the active of a data directory publishes, for a replica that starts while nobody is active. Public, and a hint only: what
//! a term is entitled to say comes from its state.

use std::{io, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{data_dir::DataDir, files};
use crate::{
    domain::{bundle::SpiffeBundle, leadership::Term},
    service::{
        pair_trust::{KeptTrust, TermTrust},
        published_trust::PublishedTrust,
    },
};

/// The file `pair/trust.json`.
#[derive(Clone, Debug)]
pub struct TrustFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Content {
    term: u64,
    own: BundleContent,
    tainted: Vec<String>,
    federated: Vec<BundleContent>,
}

#[derive(Serialize, Deserialize)]
struct BundleContent {
    trust_domain: String,
    document: String,
}

impl TrustFile {
    /// In this data directory.
    pub fn new(data_dir: &DataDir) -> Self {
        Self { path: data_dir.pair().join("trust.json") }
    }

    fn read(&self) -> io::Result<Option<Content>> {
        let json = files::read_if_present(&self.path)?;
        json.map(|json| serde_json::from_slice(&json).map_err(io::Error::other)).transpose()
    }

    fn write(&self, content: &Content, may_replace: impl FnOnce() -> bool) -> io::Result<()> {
        let mut json = serde_json::to_vec(content)?;
        json.push(b'\n');
        files::write_atomically_if(&self.path, 0o600, &json, may_replace)
    }
}

impl KeptTrust for TrustFile {
    fn load(&self) -> Result<Option<TermTrust>, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let Some(content) = self.read().map_err(|error| named(&error))? else { return Ok(None) };
        let Content { term, own, tainted, federated } = content;
        let federated = federated.iter().map(BundleContent::bundle).collect::<Result<_, _>>();
        let own = own.bundle().map_err(|error| named(&error))?;
        let trust = PublishedTrust { own, tainted, federated: federated.map_err(|error| named(&error))? };
        Ok(Some(TermTrust { term: Term::new(term), trust: Arc::new(trust) }))
    }

    fn keep(&self, kept: &TermTrust) -> Result<(), String> {
        let PublishedTrust { own, tainted, federated } = &*kept.trust;
        let content = Content {
            term: kept.term.number(),
            own: BundleContent::of(own),
            tainted: tainted.clone(),
            federated: federated.iter().map(BundleContent::of).collect(),
        };
        // what can't be read is replaced
        let is_newest = || !self.load().is_ok_and(|there| there.is_some_and(|there| there.rank() > kept.rank()));
        self.write(&content, is_newest).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

impl BundleContent {
    fn of(bundle: &SpiffeBundle) -> Self {
        Self { trust_domain: bundle.trust_domain.to_string(), document: bundle.to_json() }
    }

    fn bundle(&self) -> Result<SpiffeBundle, String> {
        let trust_domain = self.trust_domain.parse().map_err(|error| format!("{:?}: {error}", self.trust_domain))?;
        SpiffeBundle::from_json(trust_domain, self.document.as_bytes()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::authority::testing::authority;

    #[test]
    fn what_was_kept_is_read_again_and_what_makes_no_sense_is_said() {
        let base = tempfile::tempdir().unwrap();
        let file = TrustFile::new(&DataDir::open(&base.path().join("data")).unwrap());
        assert_eq!(file.load(), Ok(None));
        let bundle = authority().bundle().clone();
        let own = SpiffeBundle {
            trust_domain: bundle.trust_domain().clone(),
            x509_authorities: bundle.roots().to_vec(),
            jwt_authorities: Vec::new(),
            sequence: Some(3),
            refresh_hint: Some(Duration::from_secs(300)),
        };
        let other = SpiffeBundle {
            trust_domain: "other.example".parse().unwrap(),
            x509_authorities: Vec::new(),
            ..own.clone()
        };
        let trust = PublishedTrust { own, tainted: vec!["0a".into()], federated: vec![other] };
        let kept = TermTrust { term: Term::new(7), trust: Arc::new(trust) };
        file.keep(&kept).unwrap();
        assert_eq!(file.load(), Ok(Some(kept.clone())));
        files::write_atomically(&file.path, 0o600, b"{}").unwrap();
        assert!(file.load().unwrap_err().contains("trust.json: "));
        file.keep(&kept).unwrap();
        assert_eq!(file.load(), Ok(Some(kept)));
    }

    #[test]
    fn what_is_written_late_takes_the_place_of_nothing_newer() {
        let base = tempfile::tempdir().unwrap();
        let file = TrustFile::new(&DataDir::open(&base.path().join("data")).unwrap());
        let of = |term, sequence| {
            let mut trust = PublishedTrust::first(authority().bundle());
            trust.own.sequence = Some(sequence);
            TermTrust { term: Term::new(term), trust: Arc::new(trust) }
        };
        for (term, sequence, is_newer) in [(2, 5, true), (1, 9, false), (2, 4, false), (2, 6, true), (3, 6, true)] {
            let (before, kept) = (file.load().unwrap(), of(term, sequence));
            file.keep(&kept).unwrap();
            let expected = if is_newer { Some(kept) } else { before };
            assert_eq!(file.load().unwrap(), expected, "{sequence} of term {term}");
        }
    }
}
