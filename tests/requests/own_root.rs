//! Client certificates that the server's own root has signed, and that it would not have signed itself.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use tokio::runtime::Runtime;

use super::{
    certificates::{Authority, svid, valid},
    facts::{ACCOUNT, Facts, ID, second_issuer},
    row::Row,
    server::Server,
    table::{answer, check},
};

#[test]
fn of_certificates_under_the_own_root_only_a_proper_svid_of_the_own_trust_domain_is_a_proof() {
    let root = Authority::root("the mesh");
    let ([certificate, key], empty) = (root.pem(), String::new());
    let files = [("ca-cert.pem", &certificate), ("ca-key.pem", &key), ("cert-chain.pem", &empty)];
    let files = files.into_iter().chain([("root-cert.pem", &certificate)]);
    let files: Vec<_> = files.map(|(name, content)| (name, content.as_str())).collect();
    let server = Server::start(&files, "caDir: FOLDER\n");
    let runtime = Runtime::new().unwrap();
    let facts = runtime.block_on(Facts::gather(&server, second_issuer()));
    let channel = runtime.block_on(async { server.channel(None) });
    let mut failures = Vec::new();
    for row in rows(&facts, &root) {
        let before = server.issued();
        let answer = runtime.block_on(answer(&server, &channel, &row));
        if let Err(failure) = check(&row, answer, server.issued() - before) {
            failures.push(format!("{}: {failure}", row.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn rows(facts: &Facts, root: &Authority) -> Vec<Row> {
    let row = |name: &str, params| Row::new(name, facts).certificate(&root.leaf(params));
    let good = svid(&[ID]);
    let (mut expired, mut early, mut authority, mut server) = (good.clone(), good.clone(), good.clone(), good.clone());
    valid(&mut expired, -2, -1);
    valid(&mut early, 1, 2);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let bad = [
        ("two URI SANs", svid(&[ID, "spiffe://cluster.local/ns/default/sa/b"])),
        ("the same URI SAN twice", svid(&[ID, ID])),
        ("a foreign trust domain", svid(&["spiffe://other.example/ns/default/sa/gateway"])),
        ("no SAN", svid(&[])),
        ("an ID of no service account", svid(&["spiffe://cluster.local/countersign/serving"])),
        ("expired", expired),
        ("not valid yet", early),
        ("a CA's", authority),
        ("for servers alone", server),
    ];
    let mut rows = vec![row("a proper one", &good).issued(ACCOUNT)];
    for (name, params) in &bad {
        rows.push(row(name, params));
        let token = facts.embedded.token("default/other");
        rows.push(row(&format!("{name}, and a good token"), params).bearer(&token).issued("default/other"));
    }
    rows
}
