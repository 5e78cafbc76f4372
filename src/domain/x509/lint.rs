//! The independent check of every certificate before it leaves: X509-SVID and RFC 5280 rules, read from the bytes again.
//! It shares no code with the builder, so that one mistake can't hide in both. Signatures are not verified here.
//!
//! | rule | what it asks |
//! |---|---|
//! | `x509-parse` | one DER certificate and nothing behind it |
//! | `x509-version` | version 3 |
//! | `x509-serial-positive`, `x509-serial-length` | a positive serial number of at most 20 octets |
//! | `x509-validity-order` | NotBefore is not after NotAfter |
//! | `x509-signature-algorithm` | the same inside and outside the signed part |
//! | `x509-extension-once`, `x509-extension-form` | each extension once, and well formed |
//! | `x509-names-critical` | alternative names are critical when the subject is empty |
//! | `svid-one-uri-name`, `svid-id`, `svid-id-form` | one URI name, a workload's SPIFFE ID, scheme and domain in lower case |
//! | `svid-not-ca` | no CA |
//! | `svid-key-usage`, `svid-key-usage-critical` | key usage is there and critical |
//! | `svid-digital-signature`, `svid-no-signing` | digitalSignature, neither keyCertSign nor cRLSign |
//! | `svid-both-sides` | extended key usage, if there, names server and client authentication |
//! | `profile-basic-constraints`, `profile-extended-key-usage` | there, the former critical |
//! | `profile-key-usage` | digitalSignature and keyEncipherment, nothing else |
//! | `profile-names-critical` | critical alternative names |
//! | `issued-id`, `issued-names`, `issued-public-key` | the identity, the other names (none for a workload) and the key that were meant |
//! | `issued-within-authority` | NotAfter is not past the authority's |
//! | `issued-not-early`, `issued-not-late` | the instant of signing lies within the validity |
//! | `authority-ca`, `authority-subject` | a CA with a subject |
//! | `authority-key-usage`, `authority-key-usage-critical`, `authority-cert-sign` | keyCertSign in a critical key usage |
//! | `authority-id-no-path` | a SPIFFE ID, if there is one, is a trust domain's |

use std::{collections::HashSet, net::IpAddr};

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    x509::X509Version,
};

use crate::domain::{clock::Timestamp, identity::SpiffeId};

/// A broken rule: a stable name and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Finding {
    /// Stable, such as `svid-one-uri-name`.
    pub rule: &'static str,
    /// What was seen, in words.
    pub detail: String,
}

/// What the certificate was meant to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// The other names, in order: DNS names and IP addresses.
    pub server_names: &'a [String],
    /// SubjectPublicKeyInfo of the request, DER.
    pub public_key_info: &'a [u8],
    /// The signing certificate's NotAfter, which the leaf's may not pass.
    pub authority_not_after: Timestamp,
    /// The instant of signing.
    pub now: Timestamp,
}

/// Checks a leaf of a workload, DER. Empty means that nothing was found.
pub fn check_svid(der: &[u8], expected: &Expected<'_>) -> Vec<Finding> {
    check(der, |certificate, findings| {
        leaf(certificate, findings);
        profile(certificate, findings);
        issued(certificate, expected, findings);
    })
}

/// Checks a leaf of a workload that another authority has signed, DER: all of [`check_svid`] but our own profile.
pub fn check_foreign_svid(der: &[u8], expected: &Expected<'_>) -> Vec<Finding> {
    check(der, |certificate, findings| {
        leaf(certificate, findings);
        issued(certificate, expected, findings);
    })
}

/// Checks any SPIFFE leaf by the rules that need no expectation; `inspect` and `X509Svid` use it.
pub fn check_leaf(der: &[u8]) -> Vec<Finding> {
    check(der, leaf)
}

/// Checks a signing certificate by the rules for those.
pub fn check_authority(der: &[u8]) -> Vec<Finding> {
    check(der, authority)
}

type Findings = Vec<Finding>;

fn check(der: &[u8], rules: impl FnOnce(&X509Certificate<'_>, &mut Findings)) -> Findings {
    let mut findings = Findings::new();
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => {
            rfc5280(&certificate, &mut findings);
            rules(&certificate, &mut findings);
        }
        Ok((rest, _)) => {
            findings.push(Finding { rule: "x509-parse", detail: format!("{} bytes stand behind it", rest.len()) });
        }
        Err(error) => findings.push(Finding { rule: "x509-parse", detail: error.to_string() }),
    }
    findings
}

/// What RFC 5280 asks of any certificate.
fn rfc5280(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    require(findings, "x509-version", certificate.version() == X509Version::V3, || {
        format!("version {}, not 3", certificate.version().0.saturating_add(1))
    });
    let serial = certificate.raw_serial();
    let positive = serial.iter().any(|octet| *octet != 0) && serial.first().is_some_and(|octet| *octet < 0x80);
    require(findings, "x509-serial-positive", positive, || "the serial number is zero or negative".into());
    // An octet of zero in front is only the sign.
    let octets = serial.len() - usize::from(serial.first() == Some(&0));
    require(findings, "x509-serial-length", octets <= 20, || format!("the serial number has {octets} octets"));
    let validity = certificate.validity();
    require(findings, "x509-validity-order", validity.not_before <= validity.not_after, || {
        format!("from {} to {}", validity.not_before, validity.not_after)
    });
    let (outer, inner) = (&certificate.signature_algorithm, &certificate.signature);
    require(findings, "x509-signature-algorithm", outer == inner, || {
        format!("{} outside, {} inside", outer.algorithm, inner.algorithm)
    });
    let mut seen = HashSet::new();
    for extension in certificate.extensions() {
        require(findings, "x509-extension-once", seen.insert(&extension.oid), || format!("{} repeats", extension.oid));
        let parsed = !matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
        require(findings, "x509-extension-form", parsed, || format!("{} does not parse", extension.oid));
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let nameless = certificate.subject().iter_rdn().next().is_none();
    require(findings, "x509-names-critical", !nameless || names.is_none_or(|names| names.critical), || {
        "the subject is empty, but the alternative names are not critical".into()
    });
}

/// X509-SVID for leaves: 2, 4.1, 4.3, 4.4, 5.2.
fn leaf(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    let uris = uri_names(certificate);
    match uris.as_slice() {
        [uri] => match uri.parse::<SpiffeId>() {
            Ok(id) => {
                require(findings, "svid-id-form", id.as_str() == *uri, || format!("{uri} is not written as {id}"))
            }
            Err(error) => findings.push(Finding { rule: "svid-id", detail: format!("{uri}: {error}") }),
        },
        _ => findings.push(Finding { rule: "svid-one-uri-name", detail: format!("{} URI names", uris.len()) }),
    }
    require(findings, "svid-not-ca", !certificate.is_ca(), || "basic constraints say CA".into());
    match certificate.key_usage() {
        Ok(Some(usage)) => {
            require(findings, "svid-key-usage-critical", usage.critical, || "key usage is not critical".into());
            let (signs, usage) = (usage.value.key_cert_sign() || usage.value.crl_sign(), usage.value);
            require(findings, "svid-digital-signature", usage.digital_signature(), || format!("key usage: {usage}"));
            require(findings, "svid-no-signing", !signs, || format!("key usage: {usage}"));
        }
        _ => findings.push(Finding { rule: "svid-key-usage", detail: "there is no key usage".into() }),
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage() {
        let both = usage.value.server_auth && usage.value.client_auth;
        require(findings, "svid-both-sides", both, || {
            "extended key usage lacks server or client authentication".into()
        });
    }
}

/// What our own leaves promise on top of that (istiod's profile).
fn profile(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    let constrained = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.critical);
    require(findings, "profile-basic-constraints", constrained, || "absent or not critical".into());
    let purposes = certificate.extended_key_usage().ok().flatten().is_some();
    require(findings, "profile-extended-key-usage", purposes, || "absent".into());
    let usage = certificate.key_usage().ok().flatten();
    // Bits 0 and 2: digitalSignature and keyEncipherment.
    require(findings, "profile-key-usage", usage.as_ref().is_some_and(|usage| usage.value.flags == 0b101), || {
        usage.as_ref().map_or_else(|| "absent".into(), |usage| usage.value.to_string())
    });
    let names = certificate.subject_alternative_name().ok().flatten();
    require(findings, "profile-names-critical", names.as_ref().is_some_and(|names| names.critical), || {
        "the alternative names are absent or not critical".into()
    });
}

/// Whether the certificate says what it was meant to say.
fn issued(certificate: &X509Certificate<'_>, expected: &Expected<'_>, findings: &mut Findings) {
    let uris = uri_names(certificate);
    require(findings, "issued-id", uris.contains(&expected.id.as_str()), || format!("{uris:?}, not {}", expected.id));
    let others = other_names(certificate);
    require(findings, "issued-names", others == expected.server_names, || {
        format!("{others:?}, not {:?}", expected.server_names)
    });
    let same_key = certificate.public_key().raw == expected.public_key_info;
    require(findings, "issued-public-key", same_key, || "the key is not the request's".into());
    let not_before = Timestamp::from_seconds(certificate.validity().not_before.timestamp());
    let not_after = Timestamp::from_seconds(certificate.validity().not_after.timestamp());
    require(findings, "issued-within-authority", not_after <= expected.authority_not_after, || {
        format!("valid until {not_after}, the authority until {}", expected.authority_not_after)
    });
    require(findings, "issued-not-early", not_before <= expected.now, || {
        format!("valid from {not_before}, signed at {}", expected.now)
    });
    require(findings, "issued-not-late", expected.now.seconds() <= not_after.seconds(), || {
        format!("valid until {not_after}, signed at {}", expected.now)
    });
}

/// X509-SVID for signing certificates: 3.2, 4.1, 4.3.
fn authority(certificate: &X509Certificate<'_>, findings: &mut Findings) {
    require(findings, "authority-ca", certificate.is_ca(), || "basic constraints don't say CA".into());
    match certificate.key_usage() {
        Ok(Some(usage)) => {
            require(findings, "authority-key-usage-critical", usage.critical, || "key usage is not critical".into());
            require(findings, "authority-cert-sign", usage.value.key_cert_sign(), || {
                format!("key usage lacks keyCertSign: {}", usage.value)
            });
        }
        _ => findings.push(Finding { rule: "authority-key-usage", detail: "there is no key usage".into() }),
    }
    let named = certificate.subject().iter_rdn().next().is_some();
    require(findings, "authority-subject", named, || "the subject is empty (RFC 5280 4.1.2.6)".into());
    for uri in uri_names(certificate) {
        let has_path = uri.strip_prefix("spiffe://").is_some_and(|rest| rest.contains('/'));
        require(findings, "authority-id-no-path", !has_path, || format!("{uri} is a workload's"));
    }
}

fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let mut uris = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name {
                uris.push(*uri);
            }
        }
    }
    uris
}

/// Every alternative name that is no URI, in order: DNS names and IP addresses as text, other kinds by their tag.
fn other_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::URI(_) => None,
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => {
                let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from));
                Some(address.map_or_else(|_| format!("{octets:?}"), |address| address.to_string()))
            }
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => Some(name.to_string()),
        })
        .collect()
}

fn require(findings: &mut Findings, rule: &'static str, holds: bool, detail: impl FnOnce() -> String) {
    if !holds {
        findings.push(Finding { rule, detail: detail() });
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    };

    use super::*;
    use crate::domain::x509::PrivateKey;

    fn leaf_with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![uri("spiffe://td/a")];
        change(&mut params);
        let key = PrivateKey::generate_p256().unwrap();
        params.self_signed(key.key_pair().as_ref()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn rules(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn each_broken_leaf_is_told_by_its_rule() {
        type Change = fn(&mut CertificateParams);
        let cases: [(&[&str], Change); 10] = [
            (&[], |_| {}),
            (&["svid-one-uri-name"], |params| params.subject_alt_names.clear()),
            (&["svid-one-uri-name"], |params| params.subject_alt_names.push(uri("spiffe://td/b"))),
            (&["svid-id"], |params| params.subject_alt_names = vec![uri("spiffe://td")]),
            (&["svid-id-form"], |params| params.subject_alt_names = vec![uri("spiffe://TD/a")]),
            (&["svid-not-ca"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            (&["svid-key-usage"], |params| params.key_usages.clear()),
            (&["svid-no-signing"], |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            (&["svid-both-sides"], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            (&["x509-validity-order"], |params| std::mem::swap(&mut params.not_before, &mut params.not_after)),
        ];
        for (expected, change) in cases {
            assert_eq!(rules(&check_leaf(&leaf_with(change))), expected);
        }
        let serial = leaf_with(|params| params.serial_number = Some(vec![1; 21].into()));
        assert_eq!(rules(&check_leaf(&serial)), ["x509-serial-length"]);
        let nameless = leaf_with(|params| params.distinguished_name = DistinguishedName::new());
        assert_eq!(check_leaf(&nameless), []);
    }

    #[test]
    fn a_leaf_is_no_authority_and_noise_is_nothing() {
        assert_eq!(
            rules(&check_authority(&leaf_with(|_| {}))),
            ["authority-ca", "authority-cert-sign", "authority-id-no-path"]
        );
        assert_eq!(rules(&check_leaf(b"noise")), ["x509-parse"]);
        let behind = [leaf_with(|_| {}), vec![0]].concat();
        assert_eq!(rules(&check_leaf(&behind)), ["x509-parse"]);
    }
}
