//! What stands in the leaves that an authority signs: istiod's profile, so that every client of istiod finds what it knows.

use std::net::IpAddr;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::Validity;
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    x509::{SerialNumber, der},
};

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

/// GeneralName's tags (RFC 5280 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;

/// A leaf of `id`, with names for TLS servers behind the ID if there are any; those that are IP addresses become that kind
/// of name. Digital signature and key encipherment, server and client authentication, not a CA. `None` when the validity
/// lies outside the years that a certificate can name.
pub(super) fn leaf(
    id: &SpiffeId,
    server_names: &[String],
    serial: &SerialNumber,
    validity: Validity,
) -> Option<CertificateParams> {
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.distinguished_name = DistinguishedName::new();
    // With IsCa::ExplicitNoCa a subject key identifier would come along, which istiod's leaves don't have.
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let names = std::iter::once(der::value(URI, &[id.as_str().as_bytes()])).chain(server_names.iter().map(server_name));
    let names = names.collect::<Vec<_>>().concat();
    params.custom_extensions = vec![
        critical(BASIC_CONSTRAINTS, der::value(der::SEQUENCE, &[])),
        critical(SUBJECT_ALT_NAME, der::value(der::SEQUENCE, &[&names])),
    ];
    Some(params)
}

/// The common name that a leaf gets when its request had one: the ID, if it is within X.520's bound.
pub(super) fn set_common_name(params: &mut CertificateParams, id: &SpiffeId) {
    const LONGEST: usize = 64;
    if id.as_str().len() <= LONGEST {
        params.distinguished_name.push(DnType::CommonName, id.as_str());
    }
}

/// A timestamp as rcgen takes it, if its year has at most four digits.
pub(super) fn date(time: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.seconds()).ok().filter(|date| (0..=9999).contains(&date.year()))
}

fn server_name(name: &String) -> Vec<u8> {
    match name.parse() {
        Ok(IpAddr::V4(address)) => der::value(IP_ADDRESS, &[&address.octets()]),
        Ok(IpAddr::V6(address)) => der::value(IP_ADDRESS, &[&address.octets()]),
        Err(_) => der::value(DNS_NAME, &[name.as_bytes()]),
    }
}

fn critical(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}
