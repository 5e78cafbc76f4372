//! Labels of a pod, and selectors over them.

/// Keys with their values, each key once, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value.as_ref())
    }

    /// Whether every pair of this, taken as a selector, stands in `labels`. No selector selects nothing.
    pub fn selects(&self, labels: &Self) -> bool {
        !self.is_empty() && self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether there could be a pod that this and `other`, taken as selectors, both select.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, value)| other.get(key).is_none_or(|of_other| of_other == &**value))
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    /// Of a key that comes twice the first counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<(Box<str>, Box<str>)> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        pairs.dedup_by(|later, earlier| later.0 == earlier.0);
        Self(pairs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_selector_needs_each_of_its_pairs_and_an_empty_one_selects_nothing() {
        let pod = labels(&[("version", "v1"), ("app", "a")]);
        assert!(labels(&[("app", "a")]).selects(&pod));
        assert!(labels(&[("version", "v1"), ("app", "a")]).selects(&pod));
        for other in [&[("app", "b")][..], &[("app", "a"), ("tier", "x")], &[("App", "a")], &[("app", "")], &[]] {
            assert!(!labels(other).selects(&pod), "{other:?}");
        }
    }

    #[test]
    fn selectors_agree_unless_a_key_has_two_values() {
        let one = labels(&[("app", "a"), ("version", "v1")]);
        for (other, expected) in [
            (&[("app", "a")][..], true),
            (&[("tier", "x")], true),
            (&[("app", "a"), ("version", "v2")], false),
            (&[("app", "b"), ("tier", "x")], false),
        ] {
            let other = labels(other);
            assert_eq!((one.agrees_with(&other), other.agrees_with(&one)), (expected, expected), "{other:?}");
        }
    }

    #[test]
    fn the_order_they_are_written_in_means_nothing() {
        assert_eq!(labels(&[("a", "1"), ("b", "2")]), labels(&[("b", "2"), ("a", "1")]));
        assert_eq!(labels(&[("b", "2"), ("a", "1")]).get("b"), Some("2"));
    }
}
