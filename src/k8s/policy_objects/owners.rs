//! Who else has said what is in a Secret. Nobody may read it; but the answer to a write, also to one that is only tried, says who owns
//! which fields.

use serde::Deserialize;
use serde_json::{Map, Value};

/// A Secret, as far as it is looked at: nothing of what is in it.
#[derive(Debug, Deserialize)]
pub(super) struct OwnedSecret {
    metadata: Owned,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Owned {
    uid: String,
    managed_fields: Vec<Owner>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Owner {
    manager: String,
    fields_v1: Map<String, Value>,
}

/// Whoever has made a Secret has said at least of which type it is. Labels and annotations may be anybody's.
const CONTENT: [&str; 4] = ["f:type", "f:data", "f:stringData", "f:immutable"];

impl OwnedSecret {
    /// Its UID.
    pub(super) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    /// A field manager other than `ours` that has said what is in it.
    pub(super) fn other_than(&self, ours: &[&str]) -> Option<&str> {
        let says_what = |owner: &&Owner| CONTENT.iter().any(|field| owner.fields_v1.contains_key(*field));
        let others = self.metadata.managed_fields.iter().filter(|owner| !ours.contains(&owner.manager.as_str()));
        others.filter(says_what).map(|owner| owner.manager.as_str()).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_else_s_is_what_another_has_said_the_content_of() {
        for (fields, expected) in [
            (r#"{"f:type": {}}"#, Some("helm")),
            (r#"{"f:data": {"f:url": {}}}"#, Some("helm")),
            (r#"{"f:metadata": {"f:labels": {"f:team": {}}}}"#, None),
        ] {
            let text = format!(
                r#"{{"metadata": {{"name": "a", "managedFields": [
                    {{"manager": "countersign", "operation": "Apply", "fieldsV1": {{"f:type": {{}}, "f:data": {{}}}}}},
                    {{"manager": "helm", "operation": "Apply", "fieldsV1": {fields}}}]}}, "data": {{"url": "eA=="}}}}"#
            );
            let secret: OwnedSecret = serde_json::from_str(&text).unwrap();
            assert_eq!(secret.other_than(&["countersign"]), expected, "{fields}");
        }
        let bare: OwnedSecret = serde_json::from_str(r#"{"metadata": {}}"#).unwrap();
        assert_eq!(bare.other_than(&["countersign"]), None);
    }
}
