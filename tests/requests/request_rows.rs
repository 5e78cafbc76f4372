//! The rest of a request: TTL, metadata, impersonation, reserved identities.

use prost_types::value::Kind;
use tonic::Code;

use super::{
    facts::{ACCOUNT, Facts, ID},
    row::{NOT_IMPERSONATED, Row},
};

const DAYS_90: i64 = 90 * 86_400;

pub(crate) fn rows(facts: &Facts) -> Vec<Row> {
    [ttl(facts), metadata(facts), reserved(facts)].concat()
}

fn ttl(facts: &Facts) -> Vec<Row> {
    let good = |name: &str, ttl| Row::proven(name, facts).ttl(ttl).issued(ACCOUNT);
    let long = |name: &str, ttl, shown: &str| {
        let reason = format!("requested TTL {shown} is greater than the max allowed TTL 2160h0m0s");
        Row::proven(name, facts).ttl(ttl).invalid(&reason)
    };
    vec![
        good("TTL: zero is the default", 0),
        good("TTL: below zero is the default", -1),
        good("TTL: the lowest number is the default", i64::MIN),
        good("TTL: one second", 1),
        good("TTL: exactly the maximum", DAYS_90),
        long("TTL: a second over the maximum", DAYS_90 + 1, "2160h0m1s"),
        long("TTL: a year", 365 * 86_400, "8760h0m0s"),
        long("TTL: the last that fits Go's nanoseconds", 9_223_372_036, "2562047h47m16s"),
        long("TTL: the first that wraps there", 9_223_372_037, "2562047h47m17s"),
        long("TTL: wraps there to an hour", 18_446_744_074 + 3600, "5124096h34m34s"),
        long("TTL: the highest number", i64::MAX, "2562047788015215h30m7s"),
    ]
}

fn metadata(facts: &Facts) -> Vec<Row> {
    let text = |text: &str| Kind::StringValue(text.into());
    vec![
        Row::proven("metadata: no CertSigner", facts).metadata("CertSigner", text("")).issued(ACCOUNT),
        Row::proven("metadata: a CertSigner", facts).metadata("CertSigner", text("any")).issued(ACCOUNT),
        Row::proven("metadata: nobody impersonated", facts).metadata("ImpersonatedIdentity", text("")).issued(ACCOUNT),
        Row::proven("metadata: a number impersonated", facts)
            .metadata("ImpersonatedIdentity", Kind::NumberValue(1.0))
            .issued(ACCOUNT),
        Row::proven("impersonation: another's", facts).impersonating("spiffe://cluster.local/ns/default/sa/other"),
        Row::proven("impersonation: one's own", facts).impersonating(ID),
        Row::proven("impersonation: of another trust domain", facts).impersonating("spiffe://other/ns/default/sa/x"),
        Row::proven("impersonation: no SPIFFE ID", facts).impersonating("two,names"),
        Row::proven("impersonation: 100 KiB", facts).impersonating(&"x".repeat(100 << 10)),
        Row::proven("impersonation: with a broken CSR", facts).csr("").impersonating(ID),
        Row::new("impersonation: by an SVID", facts).certificate(&facts.svid).impersonating(ID),
        Row::new("impersonation: without proof", facts)
            .impersonating(ID)
            .refused(Code::Unauthenticated, super::row::NOT_AUTHENTICATED),
    ]
}

fn reserved(facts: &Facts) -> Vec<Row> {
    let row = |account: &str| Row::new(&format!("reserved: {account}"), facts).bearer(&facts.embedded.token(account));
    vec![
        row("istio-system/istiod").refused(Code::Unauthenticated, NOT_IMPERSONATED),
        row("istio-system/istiod-service-account").refused(Code::Unauthenticated, NOT_IMPERSONATED),
        row("istio-system/another").issued("istio-system/another"),
    ]
}
