//! Whether what was found is all that was acknowledged. Pure.

use super::{
    pair::{OBJECTS, Pair, other, secret_name},
    record::Record,
};
use crate::service::{
    ports::StateObject,
    state_manifest::{Known, Mark},
};

/// Names the root in the content of the authority object: a fingerprint in hex, `None` if the content has none. Given by
/// whoever owns that encoding.
pub type RootOf = fn(&[u8]) -> Option<String>;

/// What is wrong with the records that were found, by what each says of the other and by what is `known` from elsewhere.
/// `known` must have been taken before they were read.
pub(crate) fn examine(found: &Pair<Option<&Record>>, known: &Known, root_of: RootOf) -> Result<(), String> {
    if found.authority.is_none() && found.trust.is_none() && known.unreadable.is_some() {
        let why = known.unreadable.as_ref().map(ToString::to_string).unwrap_or_default();
        return Err(format!("both Secrets of the state are gone, but there was a state: on the Lease {why}"));
    }
    for object in OBJECTS {
        let name = secret_name(object);
        let of_other = found.of(other(object)).map(|record| (secret_name(other(object)), record.view.mark(object)));
        for (source, mark) in [("the Lease", known.acknowledged.mark(object))].into_iter().chain(of_other) {
            match found.of(object) {
                None if mark.version > 0 => {
                    let root = known.acknowledged.root.as_ref().or_else(|| root_named(found));
                    let root = root.map(|root| format!(" of root {root}")).unwrap_or_default();
                    return Err(format!(
                        "Secret {name} is gone, but {source} names its version {}{root}",
                        mark.version
                    ));
                }
                None => {}
                Some(record) => compare(name, record, source, mark)?,
            }
        }
    }
    compare_roots(found, known, root_of)
}

fn compare(name: &str, record: &Record, source: &str, mark: &Mark) -> Result<(), String> {
    let found = record.mark();
    if found.version < mark.version || found.term < mark.term {
        return Err(format!(
            "Secret {name} is behind {source}: version {} of term {}, not {} of term {}",
            found.version, found.term, mark.version, mark.term
        ));
    }
    if found.version == mark.version && found.digest != mark.digest {
        return Err(format!("Secret {name} has another content of version {} than {source} names", mark.version));
    }
    Ok(())
}

fn compare_roots(found: &Pair<Option<&Record>>, known: &Known, root_of: RootOf) -> Result<(), String> {
    let Some(authority) = found.authority else { return Ok(()) };
    let root = root_of(&authority.content);
    let shown = root.as_deref().unwrap_or("no root");
    let name = secret_name(StateObject::Authority);
    if let Some(named) = found.trust.and_then(|trust| trust.view.root.as_ref())
        && root.as_ref() != Some(named)
        && !authority.replaces.contains(named)
    {
        return Err(format!("Secret {name} is of {shown}, Secret {} names {named}", secret_name(StateObject::Trust)));
    }
    if let Some(named) = &known.acknowledged.root
        && root.as_ref() != Some(named)
        && !authority.replaces.contains(named)
    {
        return Err(format!("Secret {name} is of {shown}, the Lease names {named}"));
    }
    Ok(())
}

/// The root that a Secret which is still there names.
fn root_named<'a>(found: &Pair<Option<&'a Record>>) -> Option<&'a String> {
    [found.authority, found.trust].into_iter().flatten().find_map(|record| record.view.root.as_ref())
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{domain::leadership::Term, service::state_manifest::Acknowledged};

    /// The content is its own fingerprint.
    fn root_of(content: &[u8]) -> Option<String> {
        (!content.is_empty()).then(|| String::from_utf8(content.to_vec()).unwrap())
    }

    fn record(version: u64, content: &str) -> Record {
        Record {
            version,
            writer: Term::new(3),
            claimed: Term::new(3),
            content: Zeroizing::new(content.as_bytes().to_vec()),
            ..Record::default()
        }
    }

    /// A sound state, in which all know of all.
    fn sound() -> (Record, Record, Known) {
        let (mut authority, mut trust) = (record(2, "aa"), record(4, "denied"));
        let all = Acknowledged { root: Some("aa".into()), authority: authority.mark(), trust: trust.mark() };
        authority.view = all.clone();
        trust.view = all.clone();
        (authority, trust, Known { acknowledged: all, unreadable: None })
    }

    fn verdict(authority: Option<&Record>, trust: Option<&Record>, known: &Known) -> String {
        examine(&Pair { authority, trust }, known, root_of).err().unwrap_or_default()
    }

    #[test]
    fn what_is_all_there_is_sound_and_so_is_nothing() {
        let (authority, trust, known) = sound();
        assert_eq!(verdict(Some(&authority), Some(&trust), &known), "");
        assert_eq!(verdict(Some(&authority), Some(&trust), &Known::default()), "");
        assert_eq!(verdict(None, None, &Known::default()), "");
        // ahead of what is known: written, but not acknowledged, or by somebody else
        assert_eq!(verdict(Some(&record(3, "aa")), Some(&trust), &known), "");
        // killed between the first two writes of all
        assert_eq!(verdict(Some(&record(1, "aa")), None, &Known::default()), "");
        assert_eq!(verdict(Some(&record(1, "aa")), Some(&Record::default()), &Known::default()), "");
    }

    #[test]
    fn each_loss_is_seen_by_the_lease_alone_and_by_the_other_secret_alone() {
        let (authority, trust, known) = sound();
        let nothing = Known::default();
        let by_lease = Known { unreadable: None, ..known };
        for known in [&by_lease, &nothing] {
            let text = verdict(None, Some(&trust), known);
            assert!(text.contains("countersign-authority is gone") && text.contains("of root aa"), "{text}");
            let text = verdict(Some(&authority), None, known);
            assert!(text.contains("countersign-trust is gone"), "{text}");
            for (old, what) in [(record(1, "aa"), "is behind"), (record(2, "ab"), "another content")] {
                let text = verdict(Some(&old), Some(&trust), known);
                assert!(text.contains("countersign-authority") && text.contains(what), "{text}");
            }
            for (old, what) in [(record(3, "denied"), "is behind"), (record(4, "denies"), "another content")] {
                let text = verdict(Some(&authority), Some(&old), known);
                assert!(text.contains("countersign-trust") && text.contains(what), "{text}");
            }
            let unclaimed = Record { claimed: Term::new(2), ..record(4, "denied") };
            assert!(verdict(Some(&authority), Some(&unclaimed), known).contains("of term 2, not 4 of term 3"));
        }
        assert!(verdict(None, None, &by_lease).contains("gone, but the Lease names"));
    }

    #[test]
    fn a_lease_that_can_not_be_read_still_shows_that_there_was_a_state() {
        let (authority, trust, _) = sound();
        let broken = std::collections::BTreeMap::from([("countersign.io/root".to_owned(), "aa".to_owned())]);
        let unreadable = Acknowledged::parse(&broken).unwrap_err();
        let known = Known { unreadable: Some(unreadable), ..Known::default() };
        assert!(verdict(None, None, &known).contains("there was a state"));
        assert_eq!(verdict(Some(&authority), Some(&trust), &known), "");
    }

    #[test]
    fn another_root_is_refused_unless_it_says_that_it_replaces_the_known_one() {
        let (_, trust, known) = sound();
        let foreign = record(9, "bb");
        assert!(verdict(Some(&foreign), Some(&trust), &Known::default()).contains("is of bb, Secret"));
        let mut trust_of_foreign = trust;
        trust_of_foreign.version = 9;
        trust_of_foreign.view =
            Acknowledged { root: Some("bb".into()), authority: foreign.mark(), trust: Mark::default() };
        let text = verdict(Some(&foreign), Some(&trust_of_foreign), &known);
        assert!(text.contains("is of bb, the Lease names aa"), "{text}");
        let named = Record { replaces: vec!["00".into(), "aa".into()], ..foreign };
        assert_eq!(verdict(Some(&named), Some(&trust_of_foreign), &known), "");
    }

    #[test]
    fn in_the_middle_of_a_rotation_the_other_object_may_still_name_the_root_that_signed_before() {
        let (authority, trust, known) = sound();
        let next = Record { version: 3, content: Zeroizing::new(b"bb".to_vec()), ..authority };
        assert!(verdict(Some(&next), Some(&trust), &known).contains("names aa"));
        let rotated = Record { replaces: vec!["aa".into()], ..next };
        assert_eq!(verdict(Some(&rotated), Some(&trust), &known), "");
    }

    #[test]
    fn a_state_that_was_given_up_is_an_empty_one_of_a_higher_version() {
        let (_, _, known) = sound();
        let empty = |version| Record { replaces: vec!["aa".into()], ..record(version, "") };
        assert_eq!(verdict(Some(&empty(3)), Some(&empty(5)), &known), "");
        assert!(verdict(Some(&empty(2)), Some(&empty(5)), &known).contains("another content"));
    }
}
