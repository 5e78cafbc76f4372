//! A set of identities, told apart from others by a digest.

use ring::digest::{Context, SHA256};

use crate::domain::identity::SpiffeId;

/// Which SPIFFE IDs are accepted behind a Service: the first 16 bytes of the SHA-256 over all of them in the order of their
/// bytes, each once and with a line feed behind it. So it says the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentitySet([u8; 16]);

impl IdentitySet {
    /// Of these, in any order.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a SpiffeId>) -> Self {
        let mut ids: Vec<&str> = ids.into_iter().map(SpiffeId::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut context = Context::new(&SHA256);
        for id in ids {
            context.update(id.as_bytes());
            context.update(b"\n");
        }
        let mut set = [0; 16];
        set.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(set)
    }

    /// As it was told.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// To be told.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_mean_nothing_and_every_id_counts() {
        let [a, b] = ["spiffe://td/a", "spiffe://td/b"].map(|id| id.parse::<SpiffeId>().unwrap());
        assert_eq!(IdentitySet::of([&a, &b]), IdentitySet::of([&b, &a, &b]));
        let sets = [IdentitySet::of([]), IdentitySet::of([&a]), IdentitySet::of([&b]), IdentitySet::of([&a, &b])];
        for (at, one) in sets.iter().enumerate() {
            assert!(sets.iter().skip(at + 1).all(|other| one != other), "{at}");
        }
    }

    #[test]
    fn it_says_the_same_in_every_version() {
        // printf 'spiffe://td/a\nspiffe://td/b\n' | sha256sum
        let [a, b] = ["spiffe://td/a", "spiffe://td/b"].map(|id| id.parse::<SpiffeId>().unwrap());
        let hex: String = IdentitySet::of([&a, &b]).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0ec8626dcbfbb8aeca87977d70f9d55d");
    }
}
