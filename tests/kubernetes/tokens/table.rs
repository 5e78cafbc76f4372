//! Runs the table.

use std::time::Duration;

use countersign::{domain::attestation::Evidence, service::create_certificate::CreateError};
use tokio::sync::Semaphore;

use super::{
    certificate_rows,
    row::{At, By, Expected, Row},
    token_rows,
    world::{World, id_of, request},
};
use crate::{cluster::Cluster, pair::install};

const ROWS_AT_LEAST: usize = 80;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_proof_gets_its_answer_from_whom_it_should() {
    // it has namespaces with fixed names
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let account = install(&cluster).await;
    let world = World::new(&cluster.kubeconfig(&account).await, Duration::from_secs(60)).await;
    let rows = [certificate_rows::rows(&cluster, &world).await, token_rows::rows(&cluster, &world).await].concat();

    let mut failures = Vec::new();
    for row in &rows {
        let before = (world.asked(), world.issued().len());
        let replica = match row.at {
            At::Active => &world.active,
            At::Standby => &world.standby,
        };
        let answer = replica.answer(&request(&row.impersonated), &row.evidence, &Semaphore::new(1)).await;
        if let Err(failure) = check(row, &answer, &world, before) {
            failures.push(format!("{}: {failure}", row.name));
        }
        println!("{:70} {:8} {:10} {}", row.name, format!("{:?}", row.at), format!("{:?}", row.by), said(&answer));
    }
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
    assert!(rows.len() >= ROWS_AT_LEAST, "only {} rows", rows.len());
    let denied: Vec<_> = cluster.requests().into_iter().filter(|request| request.denied).collect();
    assert!(denied.is_empty(), "the shipped rights do not suffice: {denied:#?}");
    nothing_secret(&rows, &answers(&world));
}

fn said(answer: &Result<Vec<String>, CreateError>) -> String {
    match answer {
        Ok(_) => "issued".to_owned(),
        Err(error) => error.to_string().chars().take(120).collect(),
    }
}

fn check(
    row: &Row,
    answer: &Result<Vec<String>, CreateError>,
    world: &World,
    (asked, issued): (usize, usize),
) -> Result<(), String> {
    let asked = world.asked() - asked;
    if asked != usize::from(row.by == By::ApiServer) {
        return Err(format!("the API server was asked {asked} times; {}", said(answer)));
    }
    let issued = &world.issued()[issued..];
    match (&row.expected, answer) {
        (Expected::Issued { account, proof }, Ok(_)) => {
            let [issuance] = issued else { return Err(format!("{} on record", issued.len())) };
            let recorded = issuance.proof.to_string();
            let complete = proof.iter().all(|part| recorded.contains(part.as_str()));
            if issuance.id == id_of(account) && complete {
                Ok(())
            } else {
                Err(format!("issued to {} on {recorded:?}", issuance.id))
            }
        }
        (Expected::Refused(reason), Err(error)) => {
            let is_passed_on = matches!(error, CreateError::ByActive { code: 16, .. });
            let is_final = matches!(error, CreateError::Unattested(_) | CreateError::NotEntitled(_));
            let forwarded = row.at == At::Standby && row.by != By::Replica;
            if (if forwarded { is_passed_on } else { is_final })
                && error.to_string().contains(reason)
                && issued.is_empty()
            {
                Ok(())
            } else {
                Err(format!("{error:?}, {} on record", issued.len()))
            }
        }
        (Expected::Issued { .. }, Err(error)) => Err(format!("{error:?}")),
        (Expected::Refused(_), Ok(_)) => Err("it was issued".to_owned()),
    }
}

/// All that is on record.
fn answers(world: &World) -> String {
    format!("{:?}", world.issued())
}

fn nothing_secret(rows: &[Row], recorded: &str) {
    let tokens = rows.iter().filter_map(|Row { evidence: Evidence { token, .. }, .. }| token.as_deref());
    for token in tokens.filter(|token| token.len() > 40) {
        let (_, signature) = token.rsplit_once('.').unwrap_or(("", token));
        assert!(signature.len() < 20 || !recorded.contains(signature), "a token is on record");
    }
}
