//! How a caller proves itself at one address: by its token, or by the SVID that it still holds.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tonic::{Code, Status, metadata::AsciiMetadataValue, transport::Channel};
use zeroize::Zeroizing;

use super::{
    ATTEMPT_LIMIT, CaClient, CaEndpoint, KeptChannel, Question, RootSets, broke_off,
    connection::{Limits, channel},
    error_of, no_address,
    question::Taken,
    tls::{CaVerifier, client_config},
    without_svid,
};
use crate::{domain::x509::X509Svid, service::ports::SignError};

/// What is brought to each address, and what each is verified by.
pub(super) struct Proof {
    /// Of the sources, now.
    pub(super) roots: RootSets,
    /// The bearer token, or why there is none.
    pub(super) bearer: Result<AsciiMetadataValue, String>,
}

/// Takes a kept channel away unless a call on it has ended with an answer of the other side: what is silent once would be silent
/// again. One that was made since stays.
struct Suspected<'a> {
    client: &'a CaClient,
    index: usize,
    made: u64,
    is_good: bool,
}

/// A connection that nobody has used for so long may have died unnoticed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

impl CaClient {
    pub(super) async fn token(&self) -> Result<Zeroizing<String>, String> {
        let path = &self.token_file;
        match tokio::fs::read_to_string(path).await.map(Zeroizing::new) {
            Ok(token) if token.trim().is_empty() => Err(format!("token file {} is empty", path.display())),
            Ok(token) => Ok(Zeroizing::new(token.trim().to_owned())),
            Err(error) => Err(format!("token file {}: {error}", path.display())),
        }
    }

    pub(super) async fn bearer(&self) -> Result<AsciiMetadataValue, String> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.token().await?.as_str()));
        let no_token = || format!("token file {} holds characters that no token has", self.token_file.display());
        let mut bearer: AsciiMetadataValue = bearer.parse().map_err(|_not_ascii| no_token())?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    /// The token first, on a channel without a certificate: a CA that can't verify the certificate would end the connection.
    pub(super) async fn ask_at<T, F>(
        &self,
        index: usize,
        proof: &Proof,
        taken: &Taken,
        call: &(impl Fn(Question) -> F + Sync),
    ) -> Result<T, SignError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let address = self.endpoints.get(index).map(|endpoint| endpoint.address.clone()).unwrap_or_default();
        let ask = async |channel, bearer| {
            taken.set(false);
            let answer = call(Question { address: address.clone(), channel, bearer, taken: taken.clone() }).await;
            taken.set(false);
            answer
        };
        let refusal = match &proof.bearer {
            Ok(bearer) => {
                let (channel, mut suspected) = self.kept_channel(index, &proof.roots)?;
                let answer = match ask(channel.clone(), Some(bearer.clone())).await {
                    // a kept connection may have died unnoticed; the channel makes another one
                    Err(status) if broke_off(&status) => ask(channel, Some(bearer.clone())).await,
                    answer => answer,
                };
                suspected.is_good = answer.as_ref().err().is_none_or(is_an_answer);
                match answer.map_err(|status| error_of(&status)) {
                    Err(SignError::Unauthenticated(refusal)) => refusal,
                    answer => return answer,
                }
            }
            Err(unreadable) => unreadable.clone(),
        };
        let Some(svid) = self.svid() else {
            // it may have expired since the token turned out to be unreadable
            let error = if proof.bearer.is_ok() { SignError::Unauthenticated } else { SignError::NoProof };
            return Err(error(without_svid(&refusal)));
        };
        let channel = self.channel(index, &proof.roots, Some(&svid))?;
        ask(channel, None).await.map_err(|status| error_of(&status))
    }

    /// The channel that is kept for an address, made anew when the roots have changed.
    fn kept_channel(&self, index: usize, roots: &RootSets) -> Result<(Channel, Suspected<'_>), SignError> {
        let mut channels = self.kept_channels();
        let place = channels.get_mut(index).ok_or_else(no_address)?;
        let last = place.as_ref().map_or(0, |kept| kept.made);
        let mut kept = match place.take() {
            Some(kept) if kept.roots == *roots && kept.used.elapsed() < IDLE_LIMIT => kept,
            _ => {
                let channel = self.channel(index, roots, None)?;
                KeptChannel { roots: roots.clone(), channel, made: last + 1, used: Instant::now() }
            }
        };
        kept.used = Instant::now();
        let made = kept.made;
        let channel = place.insert(kept).channel.clone();
        Ok((channel, Suspected { client: self, index, made, is_good: false }))
    }

    fn kept_channels(&self) -> MutexGuard<'_, Vec<Option<KeptChannel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, index: usize, roots: &RootSets, svid: Option<&X509Svid>) -> Result<Channel, SignError> {
        let CaEndpoint { address, server_name } = self.endpoints.get(index).ok_or_else(no_address)?;
        let server_name = ServerName::try_from(server_name.clone())
            .map_err(|_malformed| SignError::Unavailable(format!("{server_name:?} is no name of a server")))?;
        let verifier = CaVerifier::by(roots, &self.roots, self.identities.clone());
        let verifier = verifier.map_err(|error| SignError::Unavailable(error.to_string()))?;
        let tls = client_config(verifier, svid, &self.clock).map_err(SignError::Unavailable)?;
        let limits = Limits { answer: ATTEMPT_LIMIT, keeps_streams: self.keeps_streams };
        channel(address, server_name, Arc::new(tls), &limits).map_err(SignError::Unavailable)
    }

    pub(super) fn svid(&self) -> Option<Arc<X509Svid>> {
        self.identity.get()?.borrow().as_ref()?.svid.clone()
    }
}

/// Whether the other side has said so, and not the way to it.
fn is_an_answer(status: &Status) -> bool {
    std::error::Error::source(status).is_none() && status.code() != Code::DeadlineExceeded
}

impl Drop for Suspected<'_> {
    fn drop(&mut self) {
        let mut channels = self.client.kept_channels();
        if let Some(place) = channels.get_mut(self.index)
            && !self.is_good
            && place.as_ref().is_some_and(|kept| kept.made == self.made)
        {
            *place = None;
        }
    }
}
