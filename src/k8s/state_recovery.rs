//! What an operator does with the state of a pair in Kubernetes: look at it, save it, put it back, give it up. All of it may be
//! done while replicas run: what is written bears a term above all others, so that whoever is active steps down and the next
//! one takes over from it. Nothing is deleted: what is replaced is kept under another name.

mod survey;

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use self::survey::{Found, Survey};
use super::state_store::{
    RootOf,
    pair::{OBJECTS, Pair, secret_name},
    record::{Record, SECRET_TYPE, fill, new_secret, wipe},
    secrets::{Secrets, WriteError},
};
use crate::{
    domain::{clock::Timestamp, leadership::Term},
    service::{
        authority_backup::{Backup, Standing},
        ports::{StateError, StateObject},
        signing_state::{ImportedState, InItsPlace, ReplacementRefused},
        state_manifest::Acknowledged,
    },
};

/// The state of the pair in one namespace, in an operator's hands.
pub struct StateRecovery {
    secrets: Secrets,
    leases: Api<Lease>,
    root_of: RootOf,
}

/// Why nothing was done, or not all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// What is there can't be used or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// It was not asked for expressly.
    #[error(transparent)]
    Replacement(#[from] ReplacementRefused),
    /// There is nothing to save.
    #[error("there is no signing authority in this namespace yet: nothing to export")]
    Nothing,
    /// Somebody else was faster.
    #[error("Secret {0} was changed meanwhile: run the command again")]
    Changed(&'static str),
    /// The API server did not do it.
    #[error("{0}: run the command again")]
    Failed(String),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// One line for each part, for people.
    pub parts: Vec<String>,
    /// What is wrong, if anything is.
    pub damage: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The Secrets that hold what was there before.
    pub kept: Vec<String>,
    /// The term that the state bears now: the next active's is higher.
    pub term: Term,
}

/// For all requests of one step.
const LIMIT: Duration = Duration::from_secs(10);

impl StateRecovery {
    /// In `namespace`.
    pub fn new(client: Client, namespace: &str, root_of: RootOf) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        Self { secrets: Secrets::new(client, namespace), leases, root_of }
    }

    /// Looks at the Secrets and the Lease, and changes nothing.
    ///
    /// # Errors
    ///
    /// When the API server can't be asked.
    pub async fn examine(&self) -> Result<Findings, RecoveryError> {
        let survey = self.survey().await?;
        Ok(Findings { parts: survey.parts(self.root_of), damage: survey.verdict(self.root_of).err() })
    }

    /// What is stored, if nothing of it is missing or edited.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], and when there is nothing or the API server can't be asked.
    pub async fn backup(&self) -> Result<Backup, RecoveryError> {
        let survey = self.survey().await?;
        survey.verdict(self.root_of).map_err(|damage| self.secrets.damaged(&damage))?;
        let content = |object| {
            let record = survey.found.of(object).as_ref().and_then(Found::record);
            record.map(|record| record.content.clone()).filter(|content| !content.is_empty())
        };
        let authority = content(StateObject::Authority).ok_or(RecoveryError::Nothing)?;
        let standing = Standing {
            term: survey.highest_term().number(),
            authority: survey.highest_version(StateObject::Authority),
            trust: survey.highest_version(StateObject::Trust),
        };
        Ok(Backup { authority, trust: content(StateObject::Trust), standing })
    }

    /// Puts a state in the place of what is there. What is in order, or of another root, gives way only to `replace`.
    ///
    /// # Errors
    ///
    /// When it may not be replaced, somebody else writes at the same time, or the API server does not do it.
    pub async fn import(
        &self,
        mut imported: ImportedState,
        replace: bool,
        now: Timestamp,
    ) -> Result<Done, RecoveryError> {
        let survey = self.survey().await?;
        if !replace {
            let usable = survey.verdict(self.root_of).is_ok() && !survey.is_empty();
            InItsPlace { roots: survey.roots(self.root_of), usable }.may_give_way_to(&imported)?;
        }
        if let Some(trust) = &survey.found.trust {
            imported.supersede(&trust.content())?;
        }
        let contents = Pair {
            authority: Zeroizing::new(imported.authority().to_vec()),
            trust: imported.trust()?.unwrap_or_default(),
        };
        self.put_in_place(&survey, contents, imported.standing(), now).await
    }

    /// Gives the state up: the next active makes a new root, and everything that trusts the old one has to be given that.
    ///
    /// # Errors
    ///
    /// When somebody else writes at the same time, or the API server does not do it.
    pub async fn make_way_for_new_root(&self, now: Timestamp) -> Result<Done, RecoveryError> {
        let survey = self.survey().await?;
        self.put_in_place(&survey, Pair::default(), Standing::default(), now).await
    }

    /// Writes both objects anew, above every version and term that anything speaks of.
    async fn put_in_place(
        &self,
        survey: &Survey,
        contents: Pair<Zeroizing<Vec<u8>>>,
        saved: Standing,
        now: Timestamp,
    ) -> Result<Done, RecoveryError> {
        let term = survey.highest_term().max(Term::new(saved.term)).next();
        let saved = Pair { authority: saved.authority, trust: saved.trust };
        let root = (self.root_of)(&contents.authority);
        let mut replaces: BTreeSet<String> = survey.roots(self.root_of);
        replaces.extend(survey.replaced());
        replaces.retain(|replaced| Some(replaced) != root.as_ref());
        let record = |object: StateObject| Record {
            version: survey.highest_version(object).max(*saved.of(object)).saturating_add(1),
            writer: term,
            claimed: term,
            content: contents.of(object).clone(),
            replaces: replaces.iter().cloned().collect(),
            view: Acknowledged::default(),
        };
        let mut records = Pair { authority: record(StateObject::Authority), trust: record(StateObject::Trust) };
        let view = Acknowledged { root, authority: records.authority.mark(), trust: records.trust.mark() };
        let mut kept = Vec::new();
        for object in OBJECTS {
            if let Some(found) = survey.found.of(object) {
                kept.extend(self.keep(object, found, contents.of(object), now).await?);
            }
        }
        for object in OBJECTS {
            records.of_mut(object).view = view.clone();
            self.write(object, survey.found.of(object).as_ref(), records.of(object)).await?;
        }
        Ok(Done { kept, term })
    }

    /// Copies a Secret to another name, unless it holds nothing, or what will be there.
    async fn keep(
        &self,
        object: StateObject,
        found: &Found,
        next: &[u8],
        now: Timestamp,
    ) -> Result<Option<String>, RecoveryError> {
        let content = found.content();
        if content.as_slice() == next || found.secret.data.as_ref().is_none_or(|data| data.is_empty()) {
            return Ok(None);
        }
        let name = format!("{}-old-{}", secret_name(object), now.seconds());
        let mut copy = Secret { type_: Some("Opaque".into()), data: found.secret.data.clone(), ..Secret::default() };
        copy.metadata.name = Some(name.clone());
        copy.metadata.annotations.clone_from(&found.secret.metadata.annotations);
        copy.metadata.labels.clone_from(&found.secret.metadata.labels);
        match self.secrets.put(copy, Instant::now() + LIMIT).await {
            // by an earlier try within this second
            Ok(_) | Err(WriteError::Conflict) => Ok(Some(name)),
            Err(WriteError::Refused(why) | WriteError::Unknown(why)) => {
                Err(RecoveryError::Failed(format!("Secret {name} could not be made: {why}")))
            }
        }
    }

    async fn write(&self, object: StateObject, found: Option<&Found>, record: &Record) -> Result<(), RecoveryError> {
        let name = secret_name(object);
        let secret = match found {
            None => new_secret(object, record),
            Some(found) if found.can_be_written() => {
                let mut secret = found.secret.clone();
                fill(&mut secret, object, record);
                secret
            }
            // neither of that can be changed of a Secret that is there; its copy was made before
            Some(found) => {
                self.delete(name, found).await?;
                new_secret(object, record)
            }
        };
        self.secrets.put(secret, Instant::now() + LIMIT).await.map(drop).map_err(|error| match error {
            WriteError::Conflict => RecoveryError::Changed(name),
            WriteError::Refused(why) | WriteError::Unknown(why) => {
                RecoveryError::Failed(format!("Secret {name} could not be written: {why}"))
            }
        })
    }

    async fn delete(&self, name: &'static str, found: &Found) -> Result<(), RecoveryError> {
        let metadata = &found.secret.metadata;
        let preconditions =
            Preconditions { uid: metadata.uid.clone(), resource_version: metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let answer = timeout_at(Instant::now() + LIMIT, self.secrets.api.delete(name, &params)).await;
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(RecoveryError::Changed(name)),
            Ok(Err(error)) => Err(RecoveryError::Failed(format!("Secret {name} could not be deleted: {error}"))),
            Err(_elapsed) => Err(RecoveryError::Failed(format!("Secret {name}: the API server did not answer"))),
        }
    }

    /// Reads all, until it is of one piece: replicas may write meanwhile.
    async fn survey(&self) -> Result<Survey, RecoveryError> {
        let mut survey = Survey::take(&self.secrets, &self.leases, Instant::now() + LIMIT).await?;
        for _ in 0..3 {
            let again = Survey::take(&self.secrets, &self.leases, Instant::now() + LIMIT).await?;
            let settled = again.versions() == survey.versions();
            survey = again;
            if settled {
                break;
            }
        }
        Ok(survey)
    }
}

impl Found {
    fn can_be_written(&self) -> bool {
        self.secret.type_.as_deref() == Some(SECRET_TYPE) && self.secret.immutable != Some(true)
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        wipe(&mut self.secret);
    }
}
