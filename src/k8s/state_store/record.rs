//! One object of the state as a Secret: the content under the data key `state`, everything else as annotations. The checksum
//! covers all of it, so that nothing of it can be edited unnoticed. What others have put on the Secret is kept.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use ring::digest::{Context, SHA256, digest};
use zeroize::{Zeroize, Zeroizing};

use super::pair::secret_name;
use crate::{
    domain::leadership::Term,
    service::{
        ports::StateObject,
        state_manifest::{Acknowledged, Mark, ROOT_ANNOTATION, STATE_ANNOTATION},
    },
};

/// The type of both Secrets.
pub(crate) const SECRET_TYPE: &str = "countersign.io/state";
const FORMAT: &str = "1";
const CONTENT: &str = "state";

const FORMAT_ANNOTATION: &str = "countersign.io/format";
const VERSION_ANNOTATION: &str = "countersign.io/version";
const TERM_ANNOTATION: &str = "countersign.io/term";
const WRITER_ANNOTATION: &str = "countersign.io/writer-term";
const REPLACES_ANNOTATION: &str = "countersign.io/replaces";
const CHECKSUM_ANNOTATION: &str = "countersign.io/checksum";

/// An object as it is stored.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Grows with each write of the content, also across a new beginning.
    pub(crate) version: u64,
    /// The term that wrote the content.
    pub(crate) writer: Term,
    /// The highest term that has claimed the object.
    pub(crate) claimed: Term,
    /// Empty: claimed, but never written, or given up for a new root.
    pub(crate) content: Zeroizing<Vec<u8>>,
    /// The roots that an operator gave up for this one, by fingerprint. Whoever still knows of one of them was not lied to.
    pub(crate) replaces: Vec<String>,
    /// What was known of the whole state when this was written.
    pub(crate) view: Acknowledged,
}

/// A record as it was found: with the Secret around it, which the next write goes by.
#[derive(Clone)]
pub(crate) struct Stored {
    /// Without the content.
    envelope: Secret,
    pub(crate) record: Record,
}

/// Why a Secret is not an object of the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("{0}")]
    Damaged(String),
    #[error("it was written by a newer version of countersign (format {0}, this one reads up to {FORMAT})")]
    Newer(String),
}

impl Record {
    /// What the manifests keep of it.
    pub(crate) fn mark(&self) -> Mark {
        Mark { version: self.version, term: self.claimed.number(), digest: self.digest() }
    }

    fn digest(&self) -> String {
        if self.content.is_empty() { String::new() } else { hex(digest(&SHA256, &self.content).as_ref()) }
    }

    /// The same content, whoever has claimed it.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.version == other.version && self.writer == other.writer && self.content == other.content
    }

    /// Over everything, each part with its length.
    fn checksum(&self, object: StateObject) -> String {
        let [(_, root), (_, state)] = self.view.annotations();
        self.checksum_of(object, &root, &state)
    }

    /// `root` and `state` as they are written: a later version may write more than this one reads.
    fn checksum_of(&self, object: StateObject, root: &str, state: &str) -> String {
        let numbers = [self.version, self.writer.number(), self.claimed.number()].map(u64::to_be_bytes).concat();
        let replaces = self.replaces.join(" ");
        let mut context = Context::new(&SHA256);
        for part in [
            FORMAT.as_bytes(),
            secret_name(object).as_bytes(),
            &numbers,
            replaces.as_bytes(),
            root.as_bytes(),
            state.as_bytes(),
            &self.content,
        ] {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        hex(context.finish().as_ref())
    }

    fn annotations(&self, object: StateObject) -> Vec<(&'static str, String)> {
        let mut annotations = vec![
            (FORMAT_ANNOTATION, FORMAT.to_owned()),
            (VERSION_ANNOTATION, self.version.to_string()),
            (TERM_ANNOTATION, self.claimed.to_string()),
            (WRITER_ANNOTATION, self.writer.to_string()),
            (REPLACES_ANNOTATION, self.replaces.join(" ")),
            (CHECKSUM_ANNOTATION, self.checksum(object)),
        ];
        annotations.extend(self.view.annotations());
        annotations
    }
}

impl Stored {
    /// Reads what was found.
    pub(crate) fn parse(object: StateObject, mut secret: Secret) -> Result<Self, RecordError> {
        let content = take_content(&mut secret);
        let annotations = secret.metadata.annotations.get_or_insert_default();
        let damaged = |what: String| RecordError::Damaged(what);
        match annotations.get(FORMAT_ANNOTATION).map(String::as_str) {
            Some(FORMAT) => {}
            Some(format) if format.parse::<u32>().is_ok() => return Err(RecordError::Newer(format.to_owned())),
            _ => return Err(damaged(format!("it bears no {FORMAT_ANNOTATION} that makes sense"))),
        }
        let record = Record {
            version: number(annotations, VERSION_ANNOTATION)?,
            writer: Term::new(number(annotations, WRITER_ANNOTATION)?),
            claimed: Term::new(number(annotations, TERM_ANNOTATION)?),
            content,
            replaces: replaced_in(annotations).collect(),
            view: Acknowledged::parse(annotations).map_err(|error| damaged(error.to_string()))?,
        };
        let text = |name| annotations.get(name).map_or("", String::as_str);
        let checksum = record.checksum_of(object, text(ROOT_ANNOTATION), text(STATE_ANNOTATION));
        if text(CHECKSUM_ANNOTATION) != checksum {
            return Err(damaged("its checksum is wrong: content or annotations were edited by hand".into()));
        }
        if secret.type_.as_deref() != Some(SECRET_TYPE) {
            return Err(damaged(format!("its type is not {SECRET_TYPE}")));
        }
        Ok(Self { envelope: secret, record })
    }

    /// What the API server answered to the writing of `record`.
    pub(crate) fn written(mut answer: Secret, record: Record) -> Self {
        drop(take_content(&mut answer));
        Self { envelope: answer, record }
    }

    /// The Secret with another record in it, to be written only if it is still as it was found.
    pub(crate) fn with(&self, object: StateObject, record: &Record) -> Secret {
        let mut secret = self.envelope.clone();
        fill(&mut secret, object, record);
        secret
    }

    /// Changes with each write, whoever made it.
    pub(crate) fn resource_version(&self) -> &str {
        self.envelope.metadata.resource_version.as_deref().unwrap_or_default()
    }
}

/// A Secret that does not exist yet.
pub(crate) fn new_secret(object: StateObject, record: &Record) -> Secret {
    let mut secret = Secret { type_: Some(SECRET_TYPE.into()), ..Secret::default() };
    secret.metadata.name = Some(secret_name(object).into());
    let labels = [("app.kubernetes.io/name", "countersign"), ("app.kubernetes.io/managed-by", "countersign")];
    secret.metadata.labels = Some(labels.map(|(name, value)| (name.into(), value.into())).into());
    fill(&mut secret, object, record);
    secret
}

/// Puts a record into a Secret, in the place of whatever record there was.
pub(crate) fn fill(secret: &mut Secret, object: StateObject, record: &Record) {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    for (name, value) in record.annotations(object) {
        annotations.insert(name.to_owned(), value);
    }
    drop(take_content(secret));
    if !record.content.is_empty() {
        secret.data.get_or_insert_default().insert(CONTENT.to_owned(), ByteString(record.content.to_vec()));
    }
}

/// Takes the content out, so that it is wiped when it is dropped.
pub(crate) fn take_content(secret: &mut Secret) -> Zeroizing<Vec<u8>> {
    let taken = secret.data.as_mut().and_then(|data| data.remove(CONTENT));
    Zeroizing::new(taken.map(|content| content.0).unwrap_or_default())
}

/// The content of a Secret, whether it can be trusted or not.
pub(crate) fn content_of(secret: &Secret) -> Zeroizing<Vec<u8>> {
    let content = secret.data.as_ref().and_then(|data| data.get(CONTENT));
    Zeroizing::new(content.map(|content| content.0.clone()).unwrap_or_default())
}

/// Wipes what a Secret holds.
pub(crate) fn wipe(secret: &mut Secret) {
    for content in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        content.0.zeroize();
    }
}

/// The terms that annotations speak of, also where the rest makes no sense.
pub(crate) fn terms_in(annotations: &BTreeMap<String, String>) -> Term {
    let own = [TERM_ANNOTATION, WRITER_ANNOTATION].map(|name| number(annotations, name).unwrap_or_default());
    let viewed = Acknowledged::parse(annotations).unwrap_or_default().highest_term();
    own.into_iter().map(Term::new).fold(viewed, Term::max)
}

/// The roots that annotations say were given up.
pub(crate) fn replaced_in(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let replaced = annotations.get(REPLACES_ANNOTATION).map_or("", String::as_str);
    replaced.split_whitespace().map(str::to_owned)
}

/// The version that annotations speak of, also where the rest makes no sense.
pub(crate) fn version_in(annotations: &BTreeMap<String, String>) -> u64 {
    number(annotations, VERSION_ANNOTATION).unwrap_or_default()
}

fn number(annotations: &BTreeMap<String, String>, name: &str) -> Result<u64, RecordError> {
    let found = annotations.get(name).and_then(|text| text.parse().ok());
    found.ok_or_else(|| RecordError::Damaged(format!("its annotation {name} is missing or no number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: StateObject = StateObject::Trust;

    fn record() -> Record {
        Record {
            version: 3,
            writer: Term::new(4),
            claimed: Term::new(5),
            content: Zeroizing::new(b"{}".to_vec()),
            replaces: vec!["ab".into(), "cd".into()],
            view: Acknowledged { root: Some("ef".into()), ..Acknowledged::default() },
        }
    }

    fn annotation(secret: &mut Secret, name: &str, value: &str) {
        secret.metadata.annotations.as_mut().unwrap().insert(name.into(), value.into());
    }

    #[test]
    fn comes_back_as_it_went() {
        for record in [record(), Record::default()] {
            let stored = Stored::parse(OBJECT, new_secret(OBJECT, &record)).unwrap();
            assert!(stored.record == record);
            assert!(stored.envelope.data.unwrap_or_default().is_empty());
        }
    }

    #[test]
    fn what_others_put_on_it_is_kept() {
        let mut secret = new_secret(OBJECT, &record());
        annotation(&mut secret, "example.org/owner", "platform");
        annotation(&mut secret, "countersign.io/of-a-later-version", "x");
        secret.data.as_mut().unwrap().insert("more".into(), ByteString(b"y".to_vec()));
        let stored = Stored::parse(OBJECT, secret).unwrap();
        let written = stored.with(OBJECT, &Record { version: 4, ..record() });
        let annotations = written.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["example.org/owner"], "platform");
        assert_eq!(annotations["countersign.io/of-a-later-version"], "x");
        assert_eq!(written.data.as_ref().unwrap()["more"].0, b"y");
        assert_eq!(Stored::parse(OBJECT, written).unwrap().record.version, 4);
    }

    #[test]
    fn nothing_of_it_can_be_edited_unnoticed() {
        for (name, value) in [
            (VERSION_ANNOTATION, "4"),
            (TERM_ANNOTATION, "6"),
            (WRITER_ANNOTATION, "3"),
            (REPLACES_ANNOTATION, "ab"),
            (ROOT_ANNOTATION, "00"),
            (STATE_ANNOTATION, "{}"),
            (CHECKSUM_ANNOTATION, ""),
            (VERSION_ANNOTATION, "three"),
            (FORMAT_ANNOTATION, "one"),
        ] {
            let mut secret = new_secret(OBJECT, &record());
            annotation(&mut secret, name, value);
            assert!(matches!(Stored::parse(OBJECT, secret), Err(RecordError::Damaged(_))), "{name}={value}");
        }
        let mut secret = new_secret(OBJECT, &record());
        secret.data.as_mut().unwrap().insert(CONTENT.into(), ByteString(b"{ }".to_vec()));
        assert!(matches!(Stored::parse(OBJECT, secret), Err(RecordError::Damaged(text)) if text.contains("by hand")));
        let mut secret = new_secret(OBJECT, &record());
        drop(take_content(&mut secret));
        assert!(Stored::parse(OBJECT, secret).is_err());
        assert!(Stored::parse(StateObject::Authority, new_secret(OBJECT, &record())).is_err());
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut secret = new_secret(OBJECT, &record());
        annotation(&mut secret, FORMAT_ANNOTATION, "2");
        assert_eq!(Stored::parse(OBJECT, secret).err(), Some(RecordError::Newer("2".into())));
    }

    #[test]
    fn terms_and_version_are_found_in_what_is_damaged() {
        let mut secret = new_secret(OBJECT, &record());
        annotation(&mut secret, CHECKSUM_ANNOTATION, "");
        annotation(&mut secret, STATE_ANNOTATION, "{");
        let annotations = secret.metadata.annotations.unwrap();
        assert_eq!((terms_in(&annotations), version_in(&annotations)), (Term::new(5), 3));
    }
}
