//! What a replica starts with and what not, what it keeps, expiry, and the other replica.

use std::{fs, path::Path, time::Duration};

use tonic::Code;

use crate::{
    place::Place,
    support::{
        authority::{Authority, CaDir, Files, Kind},
        countersign::{Serve, root_file},
        http::free_port,
        observe::{readiness, wait_for},
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(10);

/// What a replica says that does not start.
fn refusal(place: &Place, flags: &[&str]) -> String {
    let mut serve = Serve::spawn("refused", place.logs(), &place.data(), free_port(), flags);
    let status = serve.process.wait_for_end(SOON);
    assert!(!status.success());
    serve.process.errors()
}

#[test]
fn does_not_start_without_a_good_set() {
    let root = Authority::root("root");
    let good = root.below("signer", Kind::P256).cacerts(&root.certificate);
    let refused = |files: &Files| refusal(&Place::new(), &CaDir::plain(files).flags());
    let text = refused(&good.clone().without("ca-key.pem"));
    assert!(text.contains("incomplete signing CA bundle: ca-key.pem missing beside"), "{text}");
    let expired = root.below_for("signer", Duration::ZERO).cacerts(&root.certificate);
    let text = refused(&expired);
    assert!(text.contains("ca-cert.pem: ") && text.contains("expired at"), "{text}");
    let text = refusal(&Place::new(), &["--ca-dir", "/does/not/exist"]);
    assert!(text.contains("caDir /does/not/exist: "), "{text}");
}

#[test]
fn a_data_directory_keeps_to_its_kind_of_authority_and_holds_no_plugged_in_key() {
    let root = Authority::root("root");
    let signer = root.below("signer", Kind::P256);
    let ca = CaDir::plain(&signer.cacerts(&root.certificate));

    let plugged_in = Place::new();
    drop(plugged_in.start("serve", &ca));
    let text = refusal(&plugged_in, &[]);
    assert!(text.contains("is that of an authority which is kept elsewhere: set caDir"), "{text}");
    assert_eq!(fs::read_to_string(root_file(&plugged_in.data())).unwrap(), root.certificate);
    // in PKCS#8 of P-256 the secret stands in octets 36 to 67
    assert!(!holds(&plugged_in.data(), &signer.key_der[36..68]));
    assert!(holds(ca.path(), signer.key.lines().nth(1).unwrap().as_bytes()), "the search finds nothing");
    drop(plugged_in.start("again", &ca));

    let own = Place::new();
    drop(Serve::start("serve", own.logs(), &own.data(), &[]));
    let text = refusal(&own, &ca.flags());
    assert!(text.contains("has a root of its own: leave caDir out"), "{text}");
    drop(Serve::start("again", own.logs(), &own.data(), &[]));
}

#[test]
fn a_standby_of_another_kind_is_refused_while_it_starts() {
    let root = Authority::root("root");
    let ca = CaDir::plain(&root.below("signer", Kind::P256).cacerts(&root.certificate));
    let place = Place::new();
    let active = place.start("serve", &ca);
    let text = refusal(&place, &[]);
    assert!(text.contains("runs with a caDir: set the same one here"), "{text}");
    active.wait_until_ready();

    let place = Place::new();
    let active = Serve::start("serve", place.logs(), &place.data(), &[]);
    let text = refusal(&place, &ca.flags());
    assert!(text.contains("runs with no caDir: leave it out here"), "{text}");
    active.wait_until_ready();
}

/// Whether a file below `directory` holds `secret`.
fn holds(directory: &Path, secret: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let is_there = || fs::read(&path).unwrap().windows(secret.len()).any(|window| window == secret);
        if path.is_dir() { holds(&path, secret) } else { path.is_file() && is_there() }
    })
}

#[test]
fn an_authority_that_expires_says_so_and_a_new_one_ends_it() {
    let place = Place::new();
    let root = Authority::root("root");
    let ca = CaDir::plain(&root.below_for("signer", Duration::from_secs(15)).cacerts(&root.certificate));
    let serve = place.start("serve", &ca);
    let caller = place.caller(&root.certificate);
    // the serving certificate ends with the authority, so there is no new connection then
    let connection = caller.connection(serve.port);
    let status = wait_until(SOON * 3, "a refusal", || match caller.ask(&connection) {
        Ok(_) => Err("still signed"),
        Err(status) => Ok(status),
    });
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let start = "CSR signing error (signing certificate has expired at ";
    assert!(status.message().starts_with(start), "{status:?}");
    wait_for("readiness", "not ready (signing certificate has expired at ", || readiness(&serve));

    ca.write(&root.below("renewed", Kind::P256).cacerts(&root.certificate));
    wait_until(SOON, "a signature", || caller.ask(&connection).map(drop));
    serve.wait_until_ready();
    wait_until(SOON, "a new connection", || caller.ask_anew(serve.port).map(drop));
}

#[test]
fn the_standby_goes_on_with_the_same_authority() {
    let place = Place::new();
    let root = Authority::root("root");
    let signer = root.below("signer", Kind::P384);
    let ca = CaDir::mounted(&signer.tls(&root.certificate));
    let mut replicas = [place.start("serve-0", &ca), place.start("serve-1", &ca)];
    let caller = place.caller(&root.certificate);
    for serve in &replicas {
        assert_eq!(
            caller.ask_anew(serve.port).unwrap()[1..],
            [signer.chain.as_slice(), std::slice::from_ref(&root.certificate)].concat()
        );
    }
    let active = usize::from(readiness(&replicas[1]).contains("signing: ready (active in term 1)"));
    replicas[active].process.kill();
    let survivor = &replicas[1 - active];
    let answer = caller.ask_anew(survivor.port).unwrap();
    assert_eq!(answer[1..3], signer.chain);
    wait_for("the other one active", "signing: ready (active in term 2)", || readiness(survivor));
    let other = signer.below("other", Kind::P256);
    ca.swap(&other.tls(&root.certificate));
    wait_until(SOON, "the new chain", || {
        let answer = caller.ask_anew(survivor.port).unwrap();
        if answer[1] == other.certificate { Ok(()) } else { Err("the old one") }
    });
}
