//! Where settings come from: flags over environment over one file over defaults. Values are texts until a field's own
//! parser has seen them; what is wrong is collected, so that all of it can be reported at once.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};

use super::{ConfigError, Environment, istio::IstioVariables, names};

/// The layers, and what was found wrong so far.
pub(super) struct Sources {
    /// The first that has a value decides.
    layers: Vec<Layer>,
    /// Settings of the file that are no texts and have no flag.
    pub(super) structured: Mapping,
    problems: Vec<String>,
}

struct Layer {
    origin: Origin,
    /// Texts by field name.
    values: BTreeMap<String, Vec<String>>,
}

enum Origin {
    Flags,
    Environment,
    File(String),
    /// By field, the variable.
    Istio(BTreeMap<String, String>),
    Defaults,
}

/// One setting of one layer, for messages.
struct Place<'a> {
    origin: &'a Origin,
    field: &'a str,
}

impl Sources {
    /// `fields` are the names of all settings, `structured` the keys of the file beside them.
    pub(super) fn new<A: Serialize>(
        flags: &A,
        defaults: &A,
        environment: &Environment,
        file: Option<&Path>,
        fields: &[String],
        structured: &[&str],
    ) -> Self {
        let mut sources = Self { layers: Vec::new(), structured: Mapping::new(), problems: Vec::new() };
        sources.layers.push(Layer { origin: Origin::Flags, values: names::texts_of(flags) });
        sources.layers.push(Layer { origin: Origin::Environment, values: from_environment(environment, fields) });
        let file =
            file.map(|path| path.display().to_string()).or_else(|| environment.get("COUNTERSIGN_CONFIG").cloned());
        if let Some(path) = file.filter(|path| !path.is_empty()) {
            let values = sources.read_file(&path, fields, structured);
            sources.layers.push(Layer { origin: Origin::File(path), values });
        }
        sources.layers.push(Layer { origin: Origin::Defaults, values: names::texts_of(defaults) });
        sources
    }

    /// Puts what an istio-proxy's variables say just above the defaults.
    pub(super) fn add_istios(&mut self, istios: IstioVariables) {
        let (mut variables, mut values) = (BTreeMap::new(), BTreeMap::new());
        for (field, (variable, texts)) in istios.values {
            variables.insert(field.clone(), variable);
            values.insert(field, texts);
        }
        let above_defaults = self.layers.len().saturating_sub(1);
        self.layers.insert(above_defaults, Layer { origin: Origin::Istio(variables), values });
        self.problems.extend(istios.problems);
    }

    /// The value of a setting that takes one. `None` if no source has it, or what it has does not parse.
    pub(super) fn one<T>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (place, values) = find(&self.layers, field)?;
        let result = match values {
            [value] => parse(value),
            _ => Err("takes exactly one value".to_owned()),
        };
        result.map_err(|error| self.problems.push(format!("{place}: {error}"))).ok()
    }

    /// All values of a setting that takes several. Those of one source only: a flag replaces the file's whole list.
    pub(super) fn many<T>(&mut self, field: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((place, values)) = find(&self.layers, field) else { return Vec::new() };
        let parsed = values.iter().map(|value| parse(value));
        let problems = &mut self.problems;
        parsed.filter_map(|result| result.map_err(|error| problems.push(format!("{place}: {error}"))).ok()).collect()
    }

    /// Notes that a setting without which nothing goes has no value in any source.
    pub(super) fn require(&mut self, field: &str) {
        if find(&self.layers, field).is_none_or(|(_, values)| values.is_empty()) {
            let flag = Place { origin: &Origin::Flags, field };
            self.problems.push(format!("{flag}: required, but no source gives it"));
        }
    }

    /// Whether something above the defaults gives the setting.
    pub(super) fn is_chosen(&self, field: &str) -> bool {
        find(&self.layers, field).is_some_and(|(place, _)| !matches!(place.origin, Origin::Defaults))
    }

    /// Notes a problem with the value of `field`, wherever that came from.
    pub(super) fn refuse(&mut self, field: &str, error: impl fmt::Display) {
        let problem = match find(&self.layers, field) {
            Some((place, _)) => format!("{place}: {error}"),
            None => format!("{}: {error}", names::file_key(field)),
        };
        self.problems.push(problem);
    }

    /// What was read, or everything that was wrong. A missing `config` has said why.
    pub(super) fn finish<T>(self, config: Option<T>) -> Result<T, ConfigError> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    fn read_file(&mut self, path: &str, fields: &[String], structured: &[&str]) -> BTreeMap<String, Vec<String>> {
        let mapping = match read(path) {
            Ok(mapping) => mapping,
            Err(error) => {
                self.problems.push(format!("{path}: {error}"));
                return BTreeMap::new();
            }
        };
        let mut values = BTreeMap::new();
        for (key, value) in mapping {
            let Some(name) = key.as_str() else {
                self.problems.push(format!("{path}: a key is not a text"));
                continue;
            };
            if let Some(field) = fields.iter().find(|field| names::file_key(field) == name) {
                match texts(value) {
                    Ok(texts) => drop(values.insert(field.clone(), texts)),
                    Err(error) => self.problems.push(format!("{name} in {path}: {error}")),
                }
            } else if structured.contains(&name) {
                self.structured.insert(key, value);
            } else {
                let known: Vec<String> = fields.iter().map(|field| names::file_key(field)).collect();
                let all = known.iter().map(String::as_str).chain(structured.iter().copied());
                let hint = names::nearest(name, all).map(|key| format!("; did you mean {key}?")).unwrap_or_default();
                self.problems.push(format!("{name} in {path}: no such setting{hint}"));
            }
        }
        values
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Flags => write!(f, "--{}", super::reference::flag(self.field)),
            Origin::Environment => f.write_str(&names::variable(self.field)),
            Origin::File(path) => write!(f, "{} in {path}", names::file_key(self.field)),
            Origin::Istio(variables) => {
                f.write_str(variables.get(self.field).map_or("a variable of Istio's", String::as_str))
            }
            Origin::Defaults => write!(f, "{} (the default)", names::file_key(self.field)),
        }
    }
}

fn find<'a>(layers: &'a [Layer], field: &'a str) -> Option<(Place<'a>, &'a [String])> {
    layers.iter().find_map(|layer| {
        let values = layer.values.get(field)?;
        Some((Place { origin: &layer.origin, field }, values.as_slice()))
    })
}

/// An empty variable counts as none, and lists are written with commas. Other variables with our prefix are none of our
/// business: Kubernetes sets `COUNTERSIGN_SERVICE_HOST` and its like for a Service of our name.
fn from_environment(environment: &Environment, fields: &[String]) -> BTreeMap<String, Vec<String>> {
    let value = |field: &String| environment.get(&names::variable(field)).filter(|value| !value.is_empty());
    fields
        .iter()
        .filter_map(|field| {
            let value = value(field)?;
            let texts = if super::reference::is_list(field) {
                value.split(',').map(|item| item.trim().to_owned()).collect()
            } else {
                vec![value.clone()]
            };
            Some((field.clone(), texts))
        })
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "read once, before there is a runtime that it could block")]
fn read(path: &str) -> Result<Mapping, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("the configuration file can't be read: {error}"))?;
    let value = serde_yaml_ng::from_str(&text).map_err(|error| format!("not YAML: {error}"))?;
    match value {
        Value::Mapping(mapping) => Ok(mapping),
        Value::Null => Ok(Mapping::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Sequence(_) | Value::Tagged(_) => {
            Err("a configuration file holds settings, as in `listen: 127.0.0.1:15012`".to_owned())
        }
    }
}

fn texts(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Bool(value) => Ok(vec![value.to_string()]),
        Value::Sequence(items) => {
            let lists = items.into_iter().map(texts).collect::<Result<Vec<_>, _>>()?;
            Ok(lists.into_iter().flatten().collect())
        }
        Value::Null => Err("has no value: give it one, or leave the key out".to_owned()),
        Value::Mapping(_) | Value::Tagged(_) => Err("takes a plain value or a list of those".to_owned()),
    }
}
