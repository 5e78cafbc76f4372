//! Client certificates, alone and beside a token.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa};

use super::{
    certificates::{Authority, ClientCertificate, self_signed, svid, valid},
    facts::{ACCOUNT, Facts, ID},
    row::Row,
};

pub(crate) fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows = good(facts);
    for (name, certificate) in bad(facts) {
        let row = |with: &str| Row::new(&format!("certificate {with}: {name}"), facts).certificate(&certificate);
        rows.push(row("alone"));
        rows.push(row("and a bad token").bearer("x.y.z"));
        // unlike istiod, where it would break the handshake
        rows.push(row("and a good token").bearer(&facts.embedded.token("default/other")).issued("default/other"));
    }
    rows
}

fn good(facts: &Facts) -> Vec<Row> {
    let row = |name: &str| Row::new(&format!("SVID: {name}"), facts).certificate(&facts.svid);
    vec![
        row("alone").issued(ACCOUNT),
        row("outranks a token").bearer(&facts.embedded.token("default/other")).issued(ACCOUNT),
        row("does without the token").bearer("x.y.z").issued(ACCOUNT),
        row("with a broken CSR").csr("").invalid("certificate signing request is not properly encoded"),
    ]
}

/// What makes one of our own root no proof is tested where it is decided, in `domain::attestation`: here each shape comes
/// over the wire, and all but the first lack our root.
fn bad(facts: &Facts) -> Vec<(&'static str, ClientCertificate)> {
    let other = Authority::root("cluster.local");
    let (own, foreign) = (svid(&[ID]), svid(&["spiffe://other.example/ns/default/sa/gateway"]));
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = svid(&[ID]);
        change(&mut params);
        other.leaf(&params)
    };
    let below = other.intermediate();
    let mut whole = below.leaf(&own);
    whole.chain.extend([below.certificate(), other.certificate()]);
    let mut under_ours = other.leaf(&own);
    under_ours.chain.extend(facts.root.chain.clone());
    let issued_by_svid = {
        let leaf = other.leaf(&own);
        ClientCertificate { chain: [leaf.chain, facts.svid.chain.clone()].concat(), key: leaf.key }
    };
    vec![
        ("expired, of our root", facts.expired_svid.clone()),
        ("of another root", other.leaf(&own)),
        ("of another root, which comes along", whole),
        ("of another root, the intermediate missing", below.leaf(&own)),
        ("of another root, ours behind it", under_ours),
        ("behind it an SVID, as if that had signed it", issued_by_svid),
        ("of another root and a foreign trust domain", other.leaf(&foreign)),
        ("of another root, with two URI SANs", other.leaf(&svid(&[ID, "spiffe://cluster.local/ns/default/sa/b"]))),
        ("of another root, with the same URI SAN twice", other.leaf(&svid(&[ID, ID]))),
        ("of another root, without a SAN", other.leaf(&svid(&[]))),
        (
            "of another root, with an ID of no service account",
            other.leaf(&svid(&["spiffe://cluster.local/countersign/serving"])),
        ),
        ("self-signed", self_signed(&own)),
        ("self-signed, with our root's subject", self_signed(&with_root_subject())),
        ("of another root, expired", changed(&|params| valid(params, -2, -1))),
        ("of another root, not valid yet", changed(&|params| valid(params, 1, 2))),
        ("of another root, a CA's", changed(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "of another root, for servers alone",
            changed(&|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
    ]
}

/// The name and ID of the root that `serve` makes for `cluster.local`.
fn with_root_subject() -> CertificateParams {
    let mut params = svid(&["spiffe://cluster.local"]);
    params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
