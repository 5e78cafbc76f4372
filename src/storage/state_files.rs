//! The files of the state store as they are found: which of them belong together, and what is wrong if they don't.

use std::io;

use super::{
    data_dir::DataDir,
    engine::{Engine, EngineError},
    log_head::LogHead,
    manifest::{Acknowledged, Manifest, ManifestError, RootOf},
    state_record::{OBJECTS, StateRecord, key},
};
use crate::{
    domain::leadership::Term,
    service::ports::{StateError, StateObject},
};

/// A state that was found to be whole. It may be ahead of its manifest, by what was written but not acknowledged.
pub(super) struct StateFiles {
    pub(super) engine: Engine,
    /// In the order of [`OBJECTS`].
    pub(super) records: Vec<StateRecord>,
    /// Missing if the very first start broke off.
    pub(super) manifest: Option<Manifest>,
}

/// Opens what is there; `None` if the directory never had a state.
pub(super) fn open(data_dir: &DataDir, root_of: RootOf) -> Result<Option<StateFiles>, StateError> {
    let manifest = Manifest::read(data_dir).map_err(|error| match error {
        ManifestError::Content(error) => damaged(data_dir, &format!("the manifest can't be used: {error}")),
        ManifestError::Io(_) => StateError::Io(error.to_string()),
    })?;
    let path = data_dir.state();
    if !path.try_exists().map_err(io_error)? {
        refuse_to_start_afresh(data_dir, manifest.as_ref())?;
        return Ok(None);
    }
    let engine = Engine::open(&path).map_err(|error| engine_error(data_dir, error))?;
    let records = read_all(data_dir, &engine)?;
    match &manifest {
        Some(manifest) => compare(data_dir, manifest, &records, root_of)?,
        None if records.iter().all(|record| record.version == 0 && record.claimed == Term::NONE) => {
            refuse_to_start_afresh(data_dir, None)?;
        }
        None => return Err(damaged(data_dir, "the state is there, but the manifest is gone")),
    }
    Ok(Some(StateFiles { engine, records, manifest }))
}

/// Makes an empty state.
pub(super) fn create(data_dir: &DataDir) -> Result<StateFiles, StateError> {
    let path = data_dir.state();
    let created = Engine::create(&path).and_then(|()| Engine::open(&path));
    let engine = created.map_err(|error| engine_error(data_dir, error))?;
    let records = read_all(data_dir, &engine)?;
    Ok(StateFiles { engine, records, manifest: None })
}

impl StateFiles {
    /// The manifest of what is there.
    pub(super) fn summary(&self, root_of: RootOf) -> Manifest {
        let objects = OBJECTS.into_iter().zip(&self.records);
        let root = self.records.first().filter(|authority| authority.version > 0);
        Manifest::new(
            root.and_then(|record| root_of(&record.content)),
            objects.map(|(object, record)| (key(object).to_owned(), acknowledged(record))).collect(),
        )
    }
}

/// A directory without state is new only if nothing in it speaks of an earlier life.
fn refuse_to_start_afresh(data_dir: &DataDir, manifest: Option<&Manifest>) -> Result<(), StateError> {
    if let Some(manifest) = manifest {
        let root = manifest.root.as_deref().map_or_else(|| "no root yet".to_owned(), |root| format!("root {root}"));
        return Err(damaged(data_dir, &format!("the state is gone, but the manifest is there and names {root}")));
    }
    if data_dir.root_cert().try_exists().map_err(io_error)? {
        return Err(damaged(data_dir, "state and manifest are gone, but root-cert.pem shows that there was a root"));
    }
    if data_dir.has_quarantine().map_err(io_error)? {
        return Err(damaged(data_dir, "state and manifest are gone, but something was put in quarantine here before"));
    }
    for slot in data_dir.slots_with_logs().map_err(io_error)? {
        if !matches!(LogHead::read(data_dir, slot), Ok(None | Some(LogHead { last: 0, .. }))) {
            let found = format!("state and manifest are gone, but the issuance log of {slot} is there");
            return Err(damaged(data_dir, &found));
        }
    }
    Ok(())
}

fn read_all(data_dir: &DataDir, engine: &Engine) -> Result<Vec<StateRecord>, StateError> {
    OBJECTS.into_iter().map(|object| read(data_dir, engine, object)).collect()
}

pub(super) fn read(data_dir: &DataDir, engine: &Engine, object: StateObject) -> Result<StateRecord, StateError> {
    let name = key(object);
    let Some(bytes) = engine.get(name.as_bytes()).map_err(|error| engine_error(data_dir, error))? else {
        return Ok(StateRecord::default());
    };
    StateRecord::decode(object, &bytes)
        .map_err(|error| damaged(data_dir, &format!("the state object {name} can't be used: {error}")))
}

/// The store must hold all that was acknowledged, of the same root.
fn compare(
    data_dir: &DataDir,
    manifest: &Manifest,
    records: &[StateRecord],
    root_of: RootOf,
) -> Result<(), StateError> {
    for (object, record) in OBJECTS.into_iter().zip(records) {
        let name = key(object);
        let known = manifest.object(name);
        let found = acknowledged(record);
        if found.version < known.version || found.term < known.term {
            return Err(damaged(
                data_dir,
                &format!(
                    "the state object {name} is behind the manifest: version {} of term {}, not {} of term {}",
                    found.version, found.term, known.version, known.term
                ),
            ));
        }
        if object == StateObject::Authority && found.version == known.version && known.version > 0 {
            let root = root_of(&record.content);
            if root != manifest.root {
                let [root, known] = [&root, &manifest.root].map(|root| root.as_deref().unwrap_or("no root").to_owned());
                return Err(damaged(data_dir, &format!("the state is of {root}, the manifest names {known}")));
            }
        }
    }
    Ok(())
}

pub(super) const fn acknowledged(record: &StateRecord) -> Acknowledged {
    Acknowledged { version: record.version, term: record.claimed.number() }
}

pub(super) fn damaged(data_dir: &DataDir, found: &str) -> StateError {
    StateError::Damaged(format!("{found}; {}", data_dir.advice()))
}

fn engine_error(data_dir: &DataDir, error: EngineError) -> StateError {
    match error {
        EngineError::Damaged(found) => damaged(data_dir, &format!("the state can't be read: {found}")),
        EngineError::Io(error) => StateError::Io(error),
    }
}

fn io_error(error: io::Error) -> StateError {
    StateError::Io(error.to_string())
}
