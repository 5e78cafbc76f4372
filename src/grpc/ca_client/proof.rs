//! How a caller proves itself at one address: by its token, or by the SVID that it still holds.

use std::sync::{Arc, PoisonError};

use rustls::pki_types::ServerName;
use tonic::{Status, metadata::AsciiMetadataValue, transport::Channel};
use zeroize::Zeroizing;

use super::{
    ATTEMPT_LIMIT, CaClient, CaEndpoint, KeptChannel, RootSets, broke_off, connection::channel, error_of, no_address,
    tls::client_config, without_svid,
};
use crate::{domain::x509::X509Svid, service::ports::SignError};

/// What is brought to each address, and what each is verified by.
pub(super) struct Proof {
    /// Of the sources, now.
    pub(super) roots: RootSets,
    /// The bearer token, or why there is none.
    pub(super) bearer: Result<AsciiMetadataValue, String>,
}

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
        call: &(impl Fn(Channel, Option<AsciiMetadataValue>) -> F + Sync),
    ) -> Result<T, SignError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let refusal = match &proof.bearer {
            Ok(bearer) => {
                let channel = self.kept_channel(index, &proof.roots)?;
                let answer = match call(channel.clone(), Some(bearer.clone())).await {
                    // a kept connection may have died unnoticed; the channel makes another one
                    Err(status) if broke_off(&status) => call(channel, Some(bearer.clone())).await,
                    answer => answer,
                };
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
        call(channel, None).await.map_err(|status| error_of(&status))
    }

    /// The channel that is kept for an address, made anew when the roots have changed.
    fn kept_channel(&self, index: usize, roots: &RootSets) -> Result<Channel, SignError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        match channels.get_mut(index) {
            Some(Some(kept)) if kept.roots == *roots => Ok(kept.channel.clone()),
            Some(place) => {
                let channel = self.channel(index, roots, None)?;
                *place = Some(KeptChannel { roots: roots.clone(), channel: channel.clone() });
                Ok(channel)
            }
            None => Err(no_address()),
        }
    }

    fn channel(&self, index: usize, roots: &RootSets, svid: Option<&X509Svid>) -> Result<Channel, SignError> {
        let CaEndpoint { address, server_name } = self.endpoints.get(index).ok_or_else(no_address)?;
        let server_name = ServerName::try_from(server_name.clone())
            .map_err(|_malformed| SignError::Unavailable(format!("{server_name:?} is no name of a server")))?;
        let tls = client_config(&self.roots, roots, &self.identities, svid).map_err(SignError::Unavailable)?;
        channel(address, server_name, Arc::new(tls), ATTEMPT_LIMIT).map_err(SignError::Unavailable)
    }

    pub(super) fn svid(&self) -> Option<Arc<X509Svid>> {
        self.identity.get()?.borrow().as_ref()?.svid.clone()
    }
}
