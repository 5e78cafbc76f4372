//! The fields of a state object, or of a part of one, that this version doesn't know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroize;

/// The fields of a later version. They may hold keys, so they are wiped when dropped.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct UnknownFields(BTreeMap<String, Value>);

impl UnknownFields {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for UnknownFields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
