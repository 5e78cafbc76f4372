//! What the state is kept by, beside what is in it.

use std::time::Duration;

/// The longest that a JWT-SVID may be allowed to live: nothing takes one back before it expires.
pub const LONGEST_JWT_TTL: Duration = Duration::from_secs(3600);

/// What is published beside the authorities themselves, and for how long what it makes lasts.
#[derive(Clone, Copy, Debug)]
pub struct StateSettings {
    /// How often others are asked to read the trust bundle.
    pub refresh_hint: Duration,
    /// How long an SVID lives whose owner does not say.
    pub default_ttl: Duration,
    /// The longest life of an SVID.
    pub max_ttl: Duration,
    /// The longest life of a JWT-SVID.
    pub jwt_ttl: Duration,
}

impl Default for StateSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let refresh_hint = Duration::from_secs(300);
        Self { refresh_hint, default_ttl: DAY, max_ttl: 90 * DAY, jwt_ttl: Duration::from_secs(300) }
    }
}
