//! Runs the table: each row gets its answer, a refused one leaves nothing behind, and the log holds nothing secret.

use tokio::{runtime::Runtime, time::timeout};
use tonic::{Status, transport::Channel};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{
    certificate_rows, csr_rows, der,
    facts::{Facts, SECOND_ISSUER, second_issuer},
    request_rows,
    row::{Expected, Row},
    server::{LIMIT, Server, create},
    token_rows,
};

/// Fewer bad rows than this means that a part of the table is lost.
const BAD_ROWS_AT_LEAST: usize = 150;

#[test]
fn each_request_gets_its_answer_and_a_refused_one_leaves_nothing_behind() {
    let second = second_issuer();
    let mut server = Server::start(&[("jwks.json", &second.jwks())], SECOND_ISSUER);
    let runtime = Runtime::new().unwrap();
    let facts = runtime.block_on(Facts::gather(&server, second));
    let rows =
        [csr_rows::rows(&facts), request_rows::rows(&facts), token_rows::rows(&facts), certificate_rows::rows(&facts)];
    let rows = rows.concat();
    let listed_before = server.listed().len();
    assert_eq!(listed_before, 2 + Facts::GATHERED);

    let channel = runtime.block_on(async { server.channel(None) });
    let mut failures = Vec::new();
    for row in &rows {
        let issued_before = server.issued();
        let answer = runtime.block_on(answer(&server, &channel, row));
        let more = server.issued() - issued_before;
        if let Err(failure) = check(row, answer, more) {
            failures.push(format!("{}: {failure}", row.name));
        }
        if let Some(status) = server.serve.process.ended() {
            failures.push(format!("{}: the server ended: {status}", row.name));
            break;
        }
    }
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));

    let bad = rows.iter().filter(|row| matches!(row.expected, Expected::Refused(..))).count();
    println!("{bad} bad rows and {} good ones", rows.len() - bad);
    assert!(bad >= BAD_ROWS_AT_LEAST, "only {bad} bad rows");
    assert_eq!(server.listed().len() - listed_before, rows.len() - bad, "the issuance log holds the good rows alone");
    nothing_secret(&server.said(), &facts.secrets(&rows));
}

pub(crate) async fn answer(server: &Server, channel: &Channel, row: &Row) -> Result<Vec<String>, Status> {
    let channel = match &row.certificate {
        Some(certificate) => server.channel(Some(certificate)),
        None => channel.clone(),
    };
    timeout(LIMIT, create(channel, &row.authorization, row.request.clone())).await.expect("an answer in time")
}

pub(crate) fn check(row: &Row, answer: Result<Vec<String>, Status>, issued: u64) -> Result<(), String> {
    match (&row.expected, answer) {
        (Expected::Refused(code, text), Err(status)) => {
            if status.code() != *code || status.message() != text {
                return Err(format!("{:?} {:?}, not {code:?} {text:?}", status.code(), status.message()));
            }
            if issued == 0 { Ok(()) } else { Err(format!("{issued} issued all the same")) }
        }
        (Expected::Issued { id, common_name }, Ok(chain)) => {
            if issued != 1 {
                return Err(format!("{issued} issued"));
            }
            check_leaf(&chain, id, *common_name)
        }
        (Expected::Refused(..), Ok(_)) => Err("it was issued".into()),
        (Expected::Issued { .. }, Err(status)) => Err(format!("{:?} {:?}", status.code(), status.message())),
    }
}

/// Leaf and root, and in the leaf the caller's ID and nothing else, whatever the request asked for.
fn check_leaf(chain: &[String], id: &str, common_name: bool) -> Result<(), String> {
    let [leaf, _root] = chain else { return Err(format!("{} elements", chain.len())) };
    let leaf = der::from_pem(leaf);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    if *names != [GeneralName::URI(id)] {
        return Err(format!("names {names:?}"));
    }
    if leaf.is_ca() {
        return Err("a CA".into());
    }
    let expected = if common_name { format!("CN={id}") } else { String::new() };
    let subject = leaf.subject().to_string();
    if subject == expected { Ok(()) } else { Err(format!("subject {subject:?}, not {expected:?}")) }
}

/// Neither token nor key in what the server wrote, nor a word of a panic.
pub(crate) fn nothing_secret(said: &str, secrets: &[String]) {
    assert!(said.contains("create_certificate_refused"), "the log was captured:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(secrets.len() > 100, "only {} secrets", secrets.len());
    for secret in secrets {
        assert!(!said.contains(secret.as_str()), "{secret:?} stands in the log");
    }
}
