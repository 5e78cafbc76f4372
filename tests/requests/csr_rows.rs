//! Signing requests: form, key, algorithm, signature.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};

use super::{
    csr::{
        COMMON_NAME, Csr, ECDSA_SHA1, ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512, ED25519, EMPTY_ORGANIZATION,
        K256_CURVE, P224_CURVE, P256_CURVE, P521_CURVE, ec_key, ec_key_with, info_of, key_of, pem_request, pkcs1, pss,
        rsa_key_of,
    },
    der::{NULL, SEQUENCE, bits, from_pem, pem, value},
    facts::{ACCOUNT, Facts},
    row::Row,
};

const NOT_PEM: &str = "certificate signing request is not properly encoded";
const NOT_DER: &str = "failed to parse X.509 certificate signing request";

pub(crate) fn rows(facts: &Facts) -> Vec<Row> {
    [good(facts), not_pem(facts), not_der(facts), keys(facts), algorithms(facts), signatures(facts)].concat()
}

fn good(facts: &Facts) -> Vec<Row> {
    let keys = &facts.keys;
    let row = |name: &str, csr: String| Row::proven(name, facts).csr(csr).issued(ACCOUNT);
    let p256 = || Csr::of(info_of(&keys.p256), ECDSA_SHA256);
    vec![
        row("P-256, ztunnel's empty subject", p256().pem(&keys.p256)),
        row("P-256, pilot-agent's empty organization", p256().subject(EMPTY_ORGANIZATION).pem(&keys.p256)),
        row("P-384", Csr::of(info_of(&keys.p384), ECDSA_SHA384).pem(&keys.p384)),
        row("Ed25519", Csr::of(info_of(&keys.ed25519), ED25519).pem(&keys.ed25519)),
        row("RSA 2048", Csr::of(info_of(&keys.rsa), &pkcs1(11)).subject(EMPTY_ORGANIZATION).pem(&keys.rsa)),
        row("another PEM label", pem("NEW CERTIFICATE REQUEST", &p256().signed(&keys.p256))),
        row("text behind the PEM block", facts.csr.clone() + "-----BEGIN nothing"),
        row("text before the PEM block", format!("a request\n{}", facts.csr)),
        row("a request for a CA with other names", for_a_ca(&keys.p256)),
        Row::proven("a common name", facts)
            .csr(p256().subject(COMMON_NAME).pem(&keys.p256))
            .issued_with_common_name(ACCOUNT),
    ]
}

fn for_a_ca(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["istiod.istio-system.svc".into(), "127.0.0.1".into()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let other = "spiffe://cluster.local/ns/istio-system/sa/istiod";
    params.subject_alt_names.push(SanType::URI(other.try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn not_pem(facts: &Facts) -> Vec<Row> {
    let good = &facts.csr;
    let lines = || good.lines().collect::<Vec<_>>();
    let body = lines()[1..lines().len() - 1].join("\n");
    [
        ("no CSR", String::new()),
        ("text", "please".into()),
        ("base64 without its armour", body.clone()),
        ("a BEGIN line cut off", "-----BEGIN CERTIFICATE REQ".into()),
        ("no END line", good.split("-----END").next().unwrap().into()),
        ("another label at the end", good.replace("-----END CERTIFICATE REQUEST", "-----END CERTIFICATE")),
        ("a character that is not base64", good.replacen("MI", "M*", 1)),
        ("base64 cut off", good.replacen("MI", "M", 1)),
        ("an empty block", pem_request(&[])),
        ("an encrypted block", good.replacen("MI", "Proc-Type: 4,ENCRYPTED\n\nMI", 1)),
        ("a damaged block before a good one", format!("{}{good}", pem_request(&[]))),
        ("64 KiB of space before a good one", " ".repeat(64 << 10) + good),
        ("a block of 64 KiB", pem_request(&[0x30; 64 << 10])),
        ("127 KiB of one letter", "A".repeat(127 << 10)),
    ]
    .map(|(name, csr)| Row::proven(&format!("PEM: {name}"), facts).csr(csr).invalid(NOT_PEM))
    .to_vec()
}

fn not_der(facts: &Facts) -> Vec<Row> {
    let key = &facts.keys.p256;
    let good = from_pem(&facts.csr);
    let info = Csr::of(info_of(key), ECDSA_SHA256).info();
    let mut deep = Vec::new();
    for _ in 0..5_000 {
        deep = value(SEQUENCE, &[&deep]);
    }
    [
        ("an empty SEQUENCE", vec![0x30, 0]),
        ("bytes of no meaning", vec![0xa5; 300]),
        ("a certificate", facts.svid.chain[0].to_vec()),
        ("a private key", key.serialize_der()),
        ("a public key", info_of(key)),
        ("one byte too many", [good.as_slice(), &[0]].concat()),
        ("one byte too few", good[..good.len() - 1].to_vec()),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("a length of 4 GiB", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
        ("a length of unknown size", vec![0x30, 0x80, 0x30, 0, 0, 0]),
        ("5000 SEQUENCEs in each other", deep),
        ("nothing but what is to be signed", info.clone()),
        ("no signature", value(SEQUENCE, &[&info, ECDSA_SHA256])),
        ("a signature of seven bits", value(SEQUENCE, &[&info, ECDSA_SHA256, &[3, 2, 1, 2]])),
    ]
    .map(|(name, der)| Row::proven(&format!("DER: {name}"), facts).csr(pem_request(&der)).invalid(NOT_DER))
    .to_vec()
}

fn keys(facts: &Facts) -> Vec<Row> {
    let point = |length: usize| [&[4], vec![1; length].as_slice()].concat();
    let compressed = [&[2], vec![1; 32].as_slice()].concat();
    let ed25519 = |parameters: &[u8]| {
        let algorithm = value(SEQUENCE, &[&[6, 3, 0x2b, 0x65, 0x70], parameters]);
        value(SEQUENCE, &[&algorithm, &bits(&[9; 32])])
    };
    [
        ("RSA 1024", rsa_key_of(128, NULL, 1)),
        ("RSA 2040", rsa_key_of(255, NULL, 1)),
        ("RSA 8200", rsa_key_of(1025, NULL, 1)),
        ("RSA 2048 in an unusual encoding", rsa_key_of(256, &[], 1)),
        ("RSA for PSS alone", rsa_key_of(256, &[], 10)),
        ("ECDSA P-224", ec_key(P224_CURVE, &point(56))),
        ("ECDSA P-521", ec_key(P521_CURVE, &point(132))),
        ("ECDSA on curve 1.3.132.0.10", ec_key(K256_CURVE, &point(64))),
        ("ECDSA P-256", ec_key(P256_CURVE, &compressed)),
        ("ECDSA P-256", ec_key(P256_CURVE, &point(63))),
        ("ECDSA without a named curve", ec_key_with(&[0x30, 3, 2, 1, 1], &point(64))),
        ("Ed25519", key_of(&[0x2b, 0x65, 0x70], &[9; 31])),
        ("Ed25519 in an unusual encoding", ed25519(NULL)),
        ("X25519", key_of(&[0x2b, 0x65, 0x6e], &[9; 32])),
        ("Ed448", key_of(&[0x2b, 0x65, 0x71], &[9; 57])),
        ("DSA", key_of(&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], &[2, 1, 1])),
        ("of type 1.2.3", key_of(&[0x2a, 3], &[1])),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (found, key))| {
        let accepted = "use RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519";
        Row::proven(&format!("key {index}: {found}"), facts)
            .csr(Csr::unsigned(key))
            .invalid(&format!("unsupported public key {found}: {accepted}"))
    })
    .collect()
}

fn algorithms(facts: &Facts) -> Vec<Row> {
    let keys = &facts.keys;
    [
        ("ecdsa-with-SHA1 with ECDSA P-256", &keys.p256, ECDSA_SHA1.to_vec()),
        ("ecdsa-with-SHA512 with ECDSA P-256", &keys.p256, ECDSA_SHA512.to_vec()),
        ("ed25519 with ECDSA P-256", &keys.p256, ED25519.to_vec()),
        ("sha256WithRSAEncryption with ECDSA P-256", &keys.p256, pkcs1(11)),
        ("ecdsa-with-SHA256 with Ed25519", &keys.ed25519, ECDSA_SHA256.to_vec()),
        ("ecdsa-with-SHA256 with RSA 2048", &keys.rsa, ECDSA_SHA256.to_vec()),
        ("sha1WithRSAEncryption with RSA 2048", &keys.rsa, pkcs1(5)),
        ("md5WithRSAEncryption with RSA 2048", &keys.rsa, pkcs1(4)),
        ("rsassa-pss with RSA 2048", &keys.rsa, pss(20)),
    ]
    .into_iter()
    .map(|(found, key, algorithm)| {
        let accepted =
            "use SHA-256, SHA-384 or SHA-512 with RSA (PKCS#1 v1.5 or PSS), ECDSA with SHA-256 or SHA-384, or Ed25519";
        Row::proven(&format!("algorithm: {found}"), facts)
            .csr(Csr::of(info_of(key), &algorithm).pem(key))
            .invalid(&format!("unsupported signature algorithm {found}: {accepted}"))
    })
    .collect()
}

fn signatures(facts: &Facts) -> Vec<Row> {
    let keys = &facts.keys;
    let p256 = Csr::of(info_of(&keys.p256), ECDSA_SHA256);
    let (ed25519, rsa) = (Csr::of(info_of(&keys.ed25519), ED25519), Csr::of(info_of(&keys.rsa), &pkcs1(11)));
    let other = KeyPair::generate().unwrap();
    let taken_over = from_signature(&p256.signed(&keys.p256), &p256.clone().subject(COMMON_NAME));
    let off_the_curve = ec_key(P256_CURVE, &[&[4], [1; 64].as_slice()].concat());
    [
        ("one bit of an ECDSA signature", "ECDSA", p256.broken(&keys.p256)),
        ("one bit of an RSA signature", "RSA", rsa.broken(&keys.rsa)),
        ("one bit of an Ed25519 signature", "Ed25519", ed25519.broken(&keys.ed25519)),
        ("signed by another's key", "ECDSA", p256.pem(&other)),
        ("the subject changed afterwards", "ECDSA", taken_over),
        ("a signature of no bytes", "ECDSA", pem_request(&p256.with_signature(&[]))),
        ("signed with SHA-256, SHA-384 named", "ECDSA", Csr::of(info_of(&keys.p256), ECDSA_SHA384).pem(&keys.p256)),
        ("PKCS#1 v1.5, PSS named", "RSA", Csr::of(info_of(&keys.rsa), &pss(32)).pem(&keys.rsa)),
        ("a point that is not on the curve", "ECDSA", Csr::unsigned(off_the_curve)),
    ]
    .map(|(name, family, csr)| {
        let row = Row::proven(&format!("signature: {name}"), facts).csr(csr);
        // in Go's words
        match family {
            "RSA" => row.invalid("crypto/rsa: verification error"),
            other => row.invalid(&format!("x509: {other} verification failure")),
        }
    })
    .to_vec()
}

/// A request with the ECDSA signature of another one.
fn from_signature(signed: &[u8], csr: &Csr) -> String {
    // the BIT STRING stands last, and only its length varies
    let at = signed.windows(4).rposition(|window| window[0] == 3 && window[2] == 0 && window[3] == 0x30).unwrap();
    pem_request(&csr.with_signature(&signed[at + 3..]))
}
