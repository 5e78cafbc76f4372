use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, SerialNumber as RcgenSerial,
};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, pkcs8::DecodePrivateKey};

use super::*;
use crate::domain::{
    authority::{
        Signer, TtlBounds, issue, leaf_profile,
        testing::{NOW, TestRandom},
    },
    x509::{
        CertificateChain, VerifiedCsr, pem,
        testing::{OID_P256, OID_P384, ed25519_key, p384_key, rsa_key, sec1},
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate of an authority, and what it signs with.
struct Ca {
    certificate: Certificate,
    key: PrivateKey,
    issuer: Issuer<'static, Signer>,
}

impl Ca {
    fn new(name: &str, key: PrivateKey, above: Option<&Self>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = leaf_profile::date(NOW.minus(DAY)).unwrap();
        params.not_after = leaf_profile::date(NOW.plus(DAY * 100)).unwrap();
        change(&mut params);
        let signer = Signer::new(&key);
        let signed = match above {
            Some(above) => params.signed_by(&signer, &above.issuer).unwrap(),
            None => params.self_signed(&signer).unwrap(),
        };
        let certificate = Certificate::from_der(signed.der()).unwrap();
        let issuer = Issuer::from_ca_cert_der(signed.der(), signer).unwrap();
        Self { certificate, key, issuer }
    }

    fn root(name: &str) -> Self {
        Self::new(name, p256(), None, |_| {})
    }

    fn below(&self, name: &str) -> Self {
        Self::new(name, p256(), Some(self), |_| {})
    }

    fn pem(&self) -> String {
        self.certificate.to_pem()
    }

    fn crl(&self) -> String {
        let list = CertificateRevocationListParams {
            this_update: leaf_profile::date(NOW).unwrap(),
            next_update: leaf_profile::date(NOW.plus(DAY)).unwrap(),
            crl_number: RcgenSerial::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        pem::encode("X509 CRL", list.signed_by(&self.issuer).unwrap().der()).to_string()
    }
}

fn p256() -> PrivateKey {
    PrivateKey::generate_p256().unwrap()
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn files(layout: Layout, contents: &[(&'static str, String)]) -> AuthorityFiles {
    let contents = contents.iter().map(|(name, text)| (*name, Zeroizing::new(text.clone().into_bytes())));
    AuthorityFiles::new(layout, contents.collect())
}

/// A good set of `cacerts`: what is signed by `signer`, below `above`.
fn cacerts(signer: &Ca, above: &[&Ca], roots: String) -> Vec<(&'static str, String)> {
    let chain = std::iter::once(signer).chain(above.iter().copied()).map(Ca::pem).collect();
    vec![
        ("ca-cert.pem", signer.pem()),
        ("ca-key.pem", signer.key.to_pem().to_string()),
        ("cert-chain.pem", chain),
        ("root-cert.pem", roots),
    ]
}

fn load(contents: &[(&'static str, String)]) -> Result<SigningAuthority, PluggedInError> {
    files(Layout::Cacerts, contents).authority(&trust_domain(), NOW)
}

/// The text of the refusal of a good set after a change of one file.
fn refusal(good: &[(&'static str, String)], file: &'static str, text: impl Into<String>) -> String {
    let mut contents = good.to_vec();
    contents.retain(|(name, _)| *name != file);
    contents.push((file, text.into()));
    load(&contents).expect_err(file).to_string()
}

/// What a caller gets.
fn response(authority: &SigningAuthority) -> Vec<String> {
    let id = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
    let csr = p256().certificate_request(&id).unwrap();
    let csr = VerifiedCsr::from_pem(csr.as_bytes()).unwrap();
    let bounds = TtlBounds::new(DAY, DAY).unwrap();
    issue(authority, &csr, &id, 0, &bounds, NOW, &TestRandom).unwrap().response_chain(authority)
}

fn verify(response: &[String], root: &Ca) {
    let (_, chain) = response.split_last().unwrap();
    let chain: Vec<_> =
        chain.iter().flat_map(|element| Certificate::all_from_pem(element.as_bytes()).unwrap()).collect();
    let bundle = TrustBundle::new(trust_domain(), vec![root.certificate.clone()]).unwrap();
    CertificateChain::new(chain).unwrap().verify(&bundle, NOW).unwrap();
}

#[test]
fn both_layouts_answer_as_istiod_does() {
    let root = Ca::root("root");
    let one = root.below("one");
    let two = one.below("two");
    let roots = format!("# the root\n{}\n\n", root.pem());

    let authority = load(&cacerts(&two, &[&one, &root], roots.clone())).unwrap();
    let answer = response(&authority);
    assert_eq!(answer[1..], [two.pem(), one.pem(), root.pem(), roots.clone()]);
    assert_eq!(authority.roots_pem(), roots);
    verify(&answer, &root);

    let tls =
        [("tls.crt", two.pem() + &one.pem()), ("tls.key", two.key.to_pem().to_string()), ("ca.crt", roots.clone())];
    let answer = response(&files(Layout::Tls, &tls).authority(&trust_domain(), NOW).unwrap());
    assert_eq!(answer[1..], [two.pem(), one.pem(), root.pem(), roots]);
    verify(&answer, &root);
}

#[test]
fn a_root_may_sign_by_itself_with_an_empty_chain_or_its_own() {
    let root = Ca::root("root");
    let mut contents = cacerts(&root, &[], root.pem());
    assert_eq!(response(&load(&contents).unwrap()).len(), 3);
    contents[2].1 = "\n".into();
    assert_eq!(response(&load(&contents).unwrap())[1..], [root.pem()]);
}

#[test]
fn every_kind_and_encoding_of_key() {
    let root = Ca::root("root");
    let p256 = Zeroizing::new(p256().pkcs8().to_vec());
    let p384 = p384_key();
    let pkcs1 = RsaPrivateKey::from_pkcs8_der(&rsa_key()).unwrap().to_pkcs1_der().unwrap();
    let older = [
        (&p256, pem::encode("EC PRIVATE KEY", &sec1(&p256, OID_P256))),
        (&p384, pem::encode("EC PRIVATE KEY", &sec1(&p384, OID_P384))),
        (&rsa_key(), pem::encode("RSA PRIVATE KEY", pkcs1.as_bytes())),
    ]
    .map(|(pkcs8, text)| (pkcs8.clone(), text));
    let newer = [p256, p384, rsa_key(), ed25519_key()].map(|pkcs8| {
        let text = pem::encode("PRIVATE KEY", &pkcs8);
        (pkcs8, text)
    });
    for (pkcs8, text) in older.into_iter().chain(newer) {
        let signer = Ca::new("signer", PrivateKey::from_pkcs8(pkcs8).unwrap(), Some(&root), |_| {});
        let mut contents = cacerts(&signer, &[&root], root.pem());
        contents[1].1 = text.to_string();
        verify(&response(&load(&contents).unwrap()), &root);
    }
}

#[test]
fn a_part_of_a_set_is_refused_by_name() {
    let root = Ca::root("root");
    let good = cacerts(&root, &[], root.pem());
    for (file, _) in &good {
        let part: Vec<_> = good.iter().filter(|(name, _)| name != file).cloned().collect();
        let Err(PluggedInError::Incomplete { missing, present }) = load(&part) else { panic!("{file}") };
        assert_eq!((missing, present.len()), (vec![*file], 3));
    }
    assert_eq!(load(&[]).err(), Some(PluggedInError::Nothing));
    assert_eq!(load(&[(CRL, root.crl())]).err(), Some(PluggedInError::Nothing));
    let tls = files(Layout::Tls, &[("tls.crt", root.pem())]).authority(&trust_domain(), NOW);
    assert_eq!(tls.err().unwrap().to_string(), "incomplete signing CA bundle: tls.key, ca.crt missing beside tls.crt");
}

#[test]
fn each_refusal_names_its_file() {
    let root = Ca::root("root");
    let signer = root.below("signer");
    let good = cacerts(&signer, &[&root], root.pem());
    load(&good).unwrap();
    let other = Ca::root("other");
    let half = signer.pem().split_at(200).0.to_owned();
    let parameters = pem::encode("EC PARAMETERS", OID_P256).to_string() + &signer.key.to_pem();
    for (file, text, expected) in [
        ("ca-cert.pem", half.clone(), "ca-cert.pem: not a PEM certificate: the block has no -----END"),
        ("ca-cert.pem", String::new(), "ca-cert.pem: not a PEM certificate: there is no -----BEGIN"),
        ("ca-key.pem", String::new(), "ca-key.pem: not a PEM private key"),
        ("ca-key.pem", parameters, "ca-key.pem: not a PEM private key: the first block is \"EC PARAMETERS\""),
        ("ca-key.pem", other.key.to_pem().to_string(), "ca-key.pem is not the key of ca-cert.pem"),
        ("cert-chain.pem", half.clone(), "cert-chain.pem: not a PEM certificate"),
        ("cert-chain.pem", root.pem() + &signer.pem(), "cert-chain.pem does not begin with the signing certificate"),
        ("cert-chain.pem", String::new(), "cert-chain.pem does not begin with the signing certificate"),
        ("root-cert.pem", half, "root-cert.pem: not a PEM certificate"),
        ("root-cert.pem", signer.key.to_pem().to_string(), "root-cert.pem: not a PEM certificate: a block is"),
        ("root-cert.pem", other.pem(), "ca-cert.pem: the signing certificate does not verify to the trust bundle"),
        ("ca-crl.pem", "noise".into(), "ca-crl.pem: not a PEM revocation list"),
        ("ca-crl.pem", root.pem(), "ca-crl.pem: a block is \"CERTIFICATE\""),
    ] {
        let refused = refusal(&good, file, text);
        assert!(refused.starts_with(expected), "{refused}\nis not: {expected}");
        assert!(!refused.contains(signer.key.to_pem().lines().nth(1).unwrap()), "{refused}");
    }
    let mut contents = files(Layout::Cacerts, &good).contents;
    contents.get_mut("root-cert.pem").unwrap().extend(b"# \xff");
    let refused = AuthorityFiles::new(Layout::Cacerts, contents).authority(&trust_domain(), NOW);
    assert_eq!(refused.err(), Some(PluggedInError::NotText("root-cert.pem")));
}

#[test]
fn what_may_not_sign_now_is_refused() {
    let root = Ca::root("root");
    let date = |time| leaf_profile::date(time).unwrap();
    let early = date(NOW.minus(Duration::from_secs(5)));
    let late = date(NOW.plus(Duration::from_secs(5)));
    let refused =
        |signer: &Ca, above: &[&Ca], root: &Ca| load(&cacerts(signer, above, root.pem())).err().unwrap().to_string();
    let signer = |change: &dyn Fn(&mut CertificateParams)| Ca::new("signer", p256(), Some(&root), change);

    let text = refused(&signer(&|params| params.not_after = early), &[], &root);
    assert!(text.contains("the certificate expired at"), "{text}");
    let text = refused(&signer(&|params| params.not_before = late), &[], &root);
    assert!(text.contains("valid only from"), "{text}");
    let text = refused(&signer(&|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), &[], &root);
    assert!(text.contains("not authorized to sign other certificates"), "{text}");

    let expired = Ca::new("one", p256(), Some(&root), |params| params.not_after = early);
    let text = refused(&expired.below("two"), &[&expired], &root);
    assert!(text.contains("does not verify"), "{text}");
    let one = root.below("one");
    let text = refused(&one.below("two"), &[], &root);
    assert!(text.contains("does not verify"), "{text}");

    let old = Ca::new("root", p256(), None, |params| params.not_after = early);
    let below = old.below("one");
    let text = refused(&below, &[], &old);
    assert!(text.contains("no root is valid now"), "{text}");
    let beside = load(&cacerts(&below, &[], old.pem() + &root.pem())).err().unwrap().to_string();
    assert!(beside.contains("does not verify"), "{beside}");
}

#[test]
fn each_certificate_of_the_chain_needs_a_revocation_list() {
    let root = Ca::root("root");
    let signer = root.below("signer");
    let mut contents = cacerts(&signer, &[&root], root.pem());
    contents.push((CRL, String::new()));
    load(&contents).unwrap();
    contents[4].1 = signer.crl() + &root.crl();
    load(&contents).unwrap();
    contents[4].1 = root.crl() + &Ca::root("signer").crl();
    assert_eq!(
        load(&contents).err().unwrap().to_string(),
        "ca-crl.pem: missing CRL signed by certificates: [CN=signer]: add theirs, or remove the file"
    );
}

#[test]
fn the_digest_tells_sets_apart() {
    let digest = |contents: &[(&'static str, &str)]| {
        let contents: Vec<_> = contents.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        files(Layout::Cacerts, &contents).digest()
    };
    let one = digest(&[("ca-cert.pem", "a"), ("ca-key.pem", "b")]);
    assert_eq!(one, digest(&[("ca-key.pem", "b"), ("ca-cert.pem", "a")]));
    for other in
        [&[("ca-cert.pem", "b"), ("ca-key.pem", "a")][..], &[("ca-cert.pem", "a")], &[("ca-cert.pem", "")], &[]]
    {
        assert_ne!(one, digest(other));
    }
}
