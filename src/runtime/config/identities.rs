//! The settings of `agent` for whose identities it keeps.

use std::path::PathBuf;

use super::{parse, sources::Sources};
use crate::domain::identity::Hint;

/// Whose identities the socket serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitiesConfig {
    /// The default.
    pub first: IdentityConfig,
    /// In this order.
    pub others: Vec<IdentityConfig>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// How clients find it.
    pub hint: Hint,
    /// The proof.
    pub token_file: PathBuf,
}

impl IdentitiesConfig {
    pub(super) fn read(from: &mut Sources) -> Option<Self> {
        let token_file = from.one("token_file", parse::path);
        let chosen = from.is_chosen("hint");
        let hint = from.one("hint", parse::displayed);
        let others = from.many("identities", other);
        let hint = if chosen { hint? } else { Hint::NONE };
        let first = IdentityConfig { hint, token_file: token_file? };
        for (index, other) in others.iter().enumerate() {
            let before = std::iter::once(&first).chain(others.iter().take(index));
            if before.clone().any(|before| before.hint == other.hint) {
                from.refuse(
                    "identities",
                    format!("{:?} is the hint of two: clients could not tell them apart", other.hint.as_str()),
                );
            }
            if before.clone().any(|before| before.token_file == other.token_file) {
                let file = other.token_file.display();
                from.refuse("identities", format!("{file} is the token of two: they would be the same identity"));
            }
        }
        Some(Self { first, others })
    }
}

fn other(text: &str) -> Result<IdentityConfig, String> {
    let (hint, file) = text.split_once('=').ok_or_else(|| format!("{text:?} is not HINT=FILE"))?;
    Ok(IdentityConfig { hint: parse::displayed(hint)?, token_file: parse::path(file)? })
}
