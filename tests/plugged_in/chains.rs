//! What is answered, for every kind of key and both layouts, and whether others accept it.

use std::{fs, time::SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::pem::Pem;

use crate::{
    place::Place,
    support::{
        authority::{Authority, CaDir, Kind},
        observe::said,
        openssl,
    },
};

/// All DER certificates of some PEM texts.
fn ders(texts: &[String]) -> Vec<CertificateDer<'static>> {
    let text = texts.concat();
    let blocks = Pem::iter_from_buffer(text.as_bytes());
    blocks.map(|block| CertificateDer::from(block.unwrap().contents)).collect()
}

fn verify_with_webpki(leaf: &str, above: &[String], roots: &str) {
    let (leaf, above, roots) = (ders(&[leaf.to_owned()]), ders(above), ders(&[roots.to_owned()]));
    let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let leaf = EndEntityCert::try_from(&leaf[0]).unwrap();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &above, now, usage, None, None).unwrap();
    }
}

/// Runs a replica with what `root` and `signer` are, in one of the layouts, and has its answer judged.
fn answers(root: &Authority, signer: &Authority, is_tls: bool) {
    let place = Place::new();
    let roots = format!("# {} of the mesh\n{}\n", "root", root.certificate);
    let files = if is_tls { signer.tls(&roots) } else { signer.cacerts(&roots) };
    let ca = CaDir::plain(&files);
    let serve = place.start("serve", &ca);
    let answer = place.caller(&roots).ask_anew(serve.port).unwrap();
    let (last, chain) = answer.split_last().unwrap();
    assert_eq!(*last, roots);
    assert_eq!(fs::read_to_string(place.data().join("root-cert.pem")).unwrap(), roots);
    assert_eq!(chain[1..], signer.chain);
    verify_with_webpki(&chain[0], &chain[1..], &roots);
    openssl::verify(&chain[0], &chain[1..].concat(), &roots);
    assert_eq!(said(&serve, "ca_key_exposed"), 1, "the key is readable for all");
    assert!(!serve.process.errors().contains(signer.key.lines().nth(1).unwrap()));
}

#[test]
fn elliptic_keys_below_two_intermediates() {
    let root = Authority::root("root");
    for (kind, is_tls) in [(Kind::P256, false), (Kind::P384, false), (Kind::Ed25519, true)] {
        let first = root.below("first", kind);
        answers(&root, &first.below("second", kind), is_tls);
    }
}

#[test]
fn rsa_keys_of_every_size() {
    let root = Authority::root("root");
    let first = root.below("first", Kind::P384);
    for kind in [Kind::OldRsa(2048), Kind::Rsa(3072), Kind::OldRsa(4096)] {
        answers(&root, &first.below("second", kind), false);
    }
}
