//! What the pair publishes for others to verify by, as one value that is replaced as a whole. Where it comes from and how it
//! reaches anybody is not decided here.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::watch;

use super::waiting::next;
use crate::domain::{
    bundle::SpiffeBundle,
    identity::TrustDomain,
    jwt::{JwtAuthorities, JwtAuthority},
    x509::{BundleError, Certificate, TrustBundle},
};

/// The own trust domain's bundle and those of the others that it federates with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTrust {
    /// The own one, with a sequence.
    pub own: SpiffeBundle,
    /// Authorities of it whose SVIDs are to be renewed at once: subject key identifiers in hex, and key identifiers.
    pub tainted: Vec<String>,
    /// One for each other trust domain, in the order of their names.
    pub federated: Vec<SpiffeBundle>,
}

/// The latest; `None` until there is a first one.
pub type TrustReceiver = watch::Receiver<Option<Arc<PublishedTrust>>>;

impl PublishedTrust {
    /// Of a trust domain that has had no other roots, and signs no JWT-SVIDs.
    pub fn first(bundle: &TrustBundle) -> Self {
        let own = SpiffeBundle {
            trust_domain: bundle.trust_domain().clone(),
            x509_authorities: bundle.roots().to_vec(),
            jwt_authorities: Vec::new(),
            sequence: Some(1),
            refresh_hint: None,
        };
        Self { own, tainted: Vec::new(), federated: Vec::new() }
    }

    /// The same with these roots of X.509-SVIDs beside its own.
    fn with_roots(&self, roots: &TrustBundle) -> Self {
        let mut trust = self.clone();
        let own = &mut trust.own.x509_authorities;
        own.extend(roots.roots().iter().filter(|root| !self.own.x509_authorities.contains(root)).cloned());
        trust
    }

    /// Of the own bundle; 0 if its maker does not count.
    pub fn sequence(&self) -> u64 {
        self.own.sequence.unwrap_or_default()
    }

    /// The roots of X.509-SVIDs of the own trust domain.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn own_roots(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.own.trust_domain.clone(), self.own.x509_authorities.clone())
    }

    /// Whether these are its roots of the own trust domain, in whatever order.
    pub fn has_roots(&self, roots: &TrustBundle) -> bool {
        let (own, others) = (&self.own.x509_authorities, roots.roots());
        own.len() == others.len() && own.iter().all(|root| others.contains(root))
    }

    /// The bundles of trust domains other than `own`.
    pub fn others<'a>(&'a self, own: &'a TrustDomain) -> impl Iterator<Item = &'a SpiffeBundle> {
        self.federated.iter().filter(move |bundle| bundle.trust_domain != *own)
    }

    /// Whether a certificate is to be renewed because of who has signed it.
    pub fn is_tainted(&self, leaf: &Certificate) -> bool {
        let Some(signer) = leaf.authority_key_id() else { return false };
        let signer: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
        self.tainted.iter().any(|tainted| tainted.eq_ignore_ascii_case(&signer))
    }
}

/// Tells what is published, with roots beside it that are known here and not published, as while nobody is active who would do
/// so: whoever is told of them believes what they sign from the first one on. Never returns.
pub async fn tell_with_roots(
    mut published: TrustReceiver,
    mut roots: watch::Receiver<Option<Arc<TrustBundle>>>,
    told: watch::Sender<Option<Arc<PublishedTrust>>>,
) -> Infallible {
    loop {
        let trust = published.borrow_and_update().clone();
        let known = roots.borrow_and_update().clone();
        if let Some(trust) = trust {
            let all = match known {
                Some(known) if !trust.has_roots(&known) => Arc::new(trust.with_roots(&known)),
                _ => trust,
            };
            told.send_if_modified(|told| {
                let is_news = told.as_ref() != Some(&all);
                *told = Some(all);
                is_news
            });
        }
        tokio::select! {
            () = next(&mut published) => {}
            () = next(&mut roots) => {}
        }
    }
}

impl JwtAuthorities for PublishedTrust {
    fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
        let mut bundles = std::iter::once(&self.own).chain(&self.federated);
        bundles.find(|bundle| bundle.trust_domain == *trust_domain).map(|bundle| bundle.jwt_authorities.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::domain::authority::testing::authority;

    #[tokio::test]
    async fn what_is_known_here_is_told_beside_what_is_published_and_nothing_is_left_out() {
        let [old, new] = std::array::from_fn(|_| authority().bundle().clone());
        let (publish, published) = watch::channel(None);
        let (know, known) = watch::channel(None);
        let (told, trust) = watch::channel(None);
        tokio::spawn(async move { match tell_with_roots(published, known, told).await {} });
        let roots = async || {
            yield_now().await;
            trust.borrow().as_ref().map(|trust| trust.own.x509_authorities.clone())
        };
        know.send_replace(Some(Arc::new(old.clone())));
        assert_eq!(roots().await, None, "there is no sequence yet");
        publish.send_replace(Some(Arc::new(PublishedTrust::first(&old))));
        assert_eq!(roots().await.as_deref(), Some(old.roots()));
        know.send_replace(Some(Arc::new(new.clone())));
        assert_eq!(roots().await, Some([old.roots(), new.roots()].concat()), "nobody has published it");
        publish.send_replace(Some(Arc::new(PublishedTrust::first(&new))));
        assert_eq!(roots().await.as_deref(), Some(new.roots()));
    }
}
