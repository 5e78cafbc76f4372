//! Versions of objects of the API server, as texts that it gives.

/// Whether one is of an earlier time than the other, both of one kind. They are numbers that grow (Kubernetes API conventions,
/// `resourceVersion`); of a text that is none nothing is said.
pub fn is_older(one: &str, other: &str) -> bool {
    let number = |version: &str| version.parse::<u64>().ok();
    number(one).zip(number(other)).is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_other_texts_not_at_all() {
        assert!(is_older("99", "100") && !is_older("100", "99") && !is_older("7", "7"));
        assert!(!is_older("", "1") && !is_older("1", "x"));
    }
}
