//! What callers' tokens are held to.

use std::time::Duration;

use crate::runtime::{args::KubernetesArgs, config::sources::Sources, duration};

/// How tokens of the own cluster are reviewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenReviewConfig {
    /// Of this cluster, in requests.
    pub cluster_id: String,
    /// One of these a token must have; at least one.
    pub audiences: Vec<String>,
    /// How long an answer about a token is believed.
    pub cache: Duration,
}

/// How long a token may be believed that the API server does not accept any more.
const LONGEST_CACHE: Duration = Duration::from_secs(60);

impl TokenReviewConfig {
    /// Its settings.
    pub(in crate::runtime::config) const FIELDS: [&'static str; 3] = ["cluster_id", "token_audiences", "token_cache"];

    /// Reads them; what is wrong is noted in `from`.
    pub(in crate::runtime::config) fn read(from: &mut Sources) -> Option<Self> {
        ["token_audiences", "cluster_id"].into_iter().for_each(|field| from.require(field));
        let cluster_id = from.one("cluster_id", not_empty);
        let audiences = from.many("token_audiences", not_empty);
        let cache = from.one("token_cache", believed_for);
        Some(Self { cluster_id: cluster_id?, audiences, cache: cache? })
    }

    /// The same as texts.
    pub(in crate::runtime::config) fn tell(&self, args: &mut KubernetesArgs) {
        args.cluster_id = Some(self.cluster_id.clone());
        args.token_audiences = Some(self.audiences.clone());
        args.token_cache = Some(duration::format(self.cache));
    }
}

fn believed_for(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if time > LONGEST_CACHE {
        return Err(format!(
            "{text:?} is too long: a token is believed for so long after its pod is deleted; at most {}",
            duration::format(LONGEST_CACHE)
        ));
    }
    Ok(time)
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}
