//! Whom a JWT-SVID is for.

use std::fmt;

/// The audiences of a JWT-SVID: at least one, each once, in the order in which they were named. Bounded so that the token never
/// gets longer than what is read anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audiences(Vec<String>);

/// Why nobody gets a JWT-SVID for these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudiencesError {
    /// There is none.
    #[error("audience must be specified")]
    None,
    /// One is the empty text.
    #[error("an audience is empty: name whom the token is for")]
    Empty,
    /// One holds control characters.
    #[error("an audience holds control characters")]
    Control,
    /// More than 32.
    #[error("{0} audiences are more than the {MAX_COUNT} that a token may have")]
    TooMany(usize),
    /// All together over 4 KiB.
    #[error("the audiences have {0} bytes together, more than the {MAX_BYTES} that a token may have")]
    TooLong(usize),
    /// A token for it would be a proof of identity for this very authority.
    #[error("audience {0:?} is that of proofs of identity for certificates: no JWT-SVID is minted for it")]
    OfProofs(String),
}

/// Of tokens that prove an identity to istiod, and here unless another one is configured.
pub const PROOF_AUDIENCE: &str = "istio-ca";

/// As many as clients read at most.
const MAX_COUNT: usize = 32;
/// In JSON twice that much at most, and a third more in base64: with all else within the 16 KiB of a token.
const MAX_BYTES: usize = 4096;

impl Audiences {
    /// What a caller asks for.
    ///
    /// # Errors
    ///
    /// When there is none, one can't be, or they are too many or too long.
    pub fn new(named: Vec<String>) -> Result<Self, AudiencesError> {
        if named.is_empty() {
            return Err(AudiencesError::None);
        }
        if named.len() > MAX_COUNT {
            return Err(AudiencesError::TooMany(named.len()));
        }
        let bytes = named.iter().map(String::len).fold(0, usize::saturating_add);
        if bytes > MAX_BYTES {
            return Err(AudiencesError::TooLong(bytes));
        }
        if named.iter().any(String::is_empty) {
            return Err(AudiencesError::Empty);
        }
        if named.iter().any(|audience| audience.contains(char::is_control)) {
            return Err(AudiencesError::Control);
        }
        let mut audiences: Vec<String> = Vec::with_capacity(named.len());
        for audience in named {
            if !audiences.contains(&audience) {
                audiences.push(audience);
            }
        }
        Ok(Self(audiences))
    }

    /// Refuses those that tokens which prove an identity are for: who gets hold of a JWT-SVID must not get a certificate by it.
    ///
    /// # Errors
    ///
    /// Names the first of `of_proofs` among these.
    pub fn other_than(&self, of_proofs: &[String]) -> Result<(), AudiencesError> {
        match self.0.iter().find(|audience| of_proofs.contains(audience)) {
            Some(audience) => Err(AudiencesError::OfProofs(audience.chars().take(64).collect())),
            None => Ok(()),
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// All together, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }
}

impl fmt::Display for Audiences {
    /// For log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(named: &[&str]) -> Result<Audiences, AudiencesError> {
        Audiences::new(named.iter().map(|&audience| audience.to_owned()).collect())
    }

    #[test]
    fn each_stands_once_in_the_order_in_which_they_were_named() {
        assert_eq!(of(&["b", "a", "b", "c", "a"]).unwrap().as_slice(), ["b", "a", "c"]);
        assert_eq!(
            of(&["spiffe://td/x", "ümlaut \u{1f511}"]).unwrap().to_string(),
            r#"["spiffe://td/x", "ümlaut 🔑"]"#
        );
    }

    #[test]
    fn none_and_those_that_can_not_be_are_refused() {
        assert_eq!(of(&[]), Err(AudiencesError::None));
        assert_eq!(of(&["a", ""]), Err(AudiencesError::Empty));
        assert_eq!(of(&["a\n"]), Err(AudiencesError::Control));
        let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        assert_eq!(Audiences::new(many.clone()), Err(AudiencesError::TooMany(33)));
        assert_eq!(Audiences::new(many[..32].to_vec()).unwrap().as_slice(), &many[..32]);
        assert!(of(&[&"a".repeat(4096)]).is_ok());
        assert_eq!(of(&[&"a".repeat(4096), "b"]), Err(AudiencesError::TooLong(4097)));
    }

    #[test]
    fn an_audience_of_proofs_is_refused_among_others_too() {
        let of_proofs = ["istio-ca".to_owned(), "https://issuer".to_owned()];
        for refused in [&["istio-ca"][..], &["a", "istio-ca"], &["https://issuer", "b"]] {
            let answer = of(refused).unwrap().other_than(&of_proofs);
            assert!(matches!(answer, Err(AudiencesError::OfProofs(_))), "{refused:?}");
        }
        assert_eq!(of(&["istio-ca-2", "Istio-CA"]).unwrap().other_than(&of_proofs), Ok(()));
    }
}
