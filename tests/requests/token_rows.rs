//! Bearer tokens.

use serde_json::json;

use super::{
    facts::{ACCOUNT, Facts},
    row::Row,
    tokens::{Issuer, hmac_token, now, unsigned},
};

pub(crate) fn rows(facts: &Facts) -> Vec<Row> {
    [header(facts), claims(facts), forged(facts), second(facts)].concat()
}

fn header(facts: &Facts) -> Vec<Row> {
    let token = &facts.token;
    let row = |name: &str| Row::new(&format!("authorization: {name}"), facts);
    vec![
        row("none"),
        row("empty").authorization(""),
        row("Bearer alone").authorization("Bearer"),
        row("no token").authorization("Bearer "),
        row("lower case").authorization(&format!("bearer {token}")),
        row("Basic").authorization(&format!("Basic {token}")),
        row("Istio").authorization(&format!("Istio {token}")),
        row("the token alone").authorization(token),
        row("the first of two counts, and is bad").bearer("x").bearer(token),
        row("the first of two counts, and is good").bearer(token).bearer("x").issued(ACCOUNT),
        row("another scheme is passed over").authorization("Basic x").bearer(token).issued(ACCOUNT),
        row("space behind the token").authorization(&format!("Bearer {token} ")).issued(ACCOUNT),
    ]
}

fn claims(facts: &Facts) -> Vec<Row> {
    let embedded = &facts.embedded;
    let row =
        |name: &str, changes| Row::new(&format!("token: {name}"), facts).bearer(&embedded.token_with(ACCOUNT, changes));
    let good = json!({});
    let twice =
        embedded.claims(ACCOUNT, json!({})).to_string().replacen('{', r#"{"sub":"system:serviceaccount:a:b","#, 1);
    vec![
        row("good", good).issued(ACCOUNT),
        row("audience as text", json!({ "aud": "istio-ca" })).issued(ACCOUNT),
        row("several audiences", json!({ "aud": ["a", "istio-ca"] })).issued(ACCOUNT),
        row("expired long ago", json!({ "exp": 1 })),
        row("expired a second ago", json!({ "exp": now() - 1 })),
        row("no expiry", json!({ "exp": null })),
        row("expiry as text", json!({ "exp": "2100-01-01" })),
        row("expiry below zero", json!({ "exp": -1 })),
        row("not valid before an hour from now", json!({ "nbf": now() + 3600 })),
        row("issued an hour from now", json!({ "iat": now() + 3600 })),
        row("another audience", json!({ "aud": ["vault"] })),
        row("the audience in other case", json!({ "aud": ["Istio-CA"] })),
        row("no audience", json!({ "aud": null })),
        row("an empty list of audiences", json!({ "aud": [] })),
        row("another issuer", json!({ "iss": "https://kubernetes.default.svc" })),
        row("no issuer", json!({ "iss": null })),
        row("a JWT-SVID", json!({ "sub": "spiffe://cluster.local/ns/default/sa/gateway" })),
        row("a JWT-SVID without iss", json!({ "iss": null, "sub": "spiffe://cluster.local/ns/default/sa/gateway" })),
        row("a user", json!({ "sub": "system:node:worker" })),
        row("no subject", json!({ "sub": null })),
        row("an account without a namespace", json!({ "sub": "system:serviceaccount:gateway" })),
        row("an account of five parts", json!({ "sub": "system:serviceaccount:a:b:c" })),
        row("an account that is no path segment", json!({ "sub": "system:serviceaccount:default:../sa/x" })),
        row("a namespace that is empty", json!({ "sub": "system:serviceaccount::gateway" })),
        Row::new("token: a claim twice", facts).bearer(&embedded.sign(&embedded.header(json!({})), &twice)),
    ]
}

fn forged(facts: &Facts) -> Vec<Row> {
    let (embedded, token) = (&facts.embedded, &facts.token);
    let row = |name: &str, token: String| Row::new(&format!("forged: {name}"), facts).bearer(&token);
    let claims = embedded.claims(ACCOUNT, json!({})).to_string();
    let headed = |changes| embedded.token_headed(ACCOUNT, changes);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let other = embedded.claims("default/other", json!({})).to_string();
    let none = embedded.header(json!({ "alg": "none" }));
    let hs256 = embedded.header(json!({ "alg": "HS256" }));
    let bare = json!({ "alg": "none" }).to_string();
    vec![
        row("alg none without a signature", unsigned(&none, &claims, "")),
        row("alg none without a kid", unsigned(&bare, &claims, "")),
        row("alg none with a signature", embedded.sign(&none, &claims)),
        row("alg None", headed(json!({ "alg": "None" }))),
        row("alg HS256 by a public value", hmac_token(&hs256, &claims, facts.csr.as_bytes())),
        row("alg ES384 with a P-256 key", headed(json!({ "alg": "ES384" }))),
        row("alg RS256 with a P-256 key", headed(json!({ "alg": "RS256" }))),
        row("no alg", headed(json!({ "alg": null }))),
        row("an unknown kid", headed(json!({ "kid": "another" }))),
        row("the kid of another issuer", headed(json!({ "kid": "rsa" }))),
        row("an access token's typ", headed(json!({ "typ": "at+jwt" }))),
        row("a critical extension", headed(json!({ "crit": ["b64"], "b64": false }))),
        row("a key of its own in the header", headed(json!({ "kid": "another", "jku": "https://localhost/jwks" }))),
        row("no signature", format!("{message}.")),
        row("the signature cut short", token[..token.len() - 4].to_owned()),
        row("the signature of another token", {
            let another = embedded.token("default/other");
            format!("{message}.{}", another.rsplit_once('.').unwrap().1)
        }),
        row("the signature in DER", embedded.token_in_der(ACCOUNT)),
        row("the signature all zero", format!("{message}.{}", "A".repeat(86))),
        row("other claims, same signature", unsigned(&embedded.header(json!({})), &other, signature)),
        row("two parts", message.to_owned()),
        row("four parts", format!("{token}.{signature}")),
        row("half a token", token[..token.len() / 2].to_owned()),
        row("padding", format!("{token}==")),
        row("claims that are an array", embedded.sign(&embedded.header(json!({})), "[]")),
        row("claims that are no JSON", embedded.sign(&embedded.header(json!({})), "{")),
        row("only dots", "..".into()),
        row("text", "token".into()),
    ]
}

fn second(facts: &Facts) -> Vec<Row> {
    let (second, embedded) = (&facts.second, &facts.embedded);
    let row = |name: &str, token: String| Row::new(&format!("second issuer: {name}"), facts).bearer(&token);
    let as_second = |issuer: &Issuer, kid: &str| {
        issuer.sign(&issuer.header(json!({ "kid": kid })), &second.claims("edge/gateway", json!({})).to_string())
    };
    let edge = "edge/gateway";
    vec![
        row("good", second.token(edge)).issued(edge),
        row("its second audience", second.token_with(edge, json!({ "aud": ["other-ca"] }))).issued(edge),
        row("the embedded issuer's audience", second.token_with(edge, json!({ "aud": ["istio-ca"] }))),
        row("another namespace", second.token(ACCOUNT)),
        row("a namespace that begins alike", second.token("edge-two/gateway")),
        row("ES256 named, RSA signed", second.token_headed(edge, json!({ "alg": "ES256" }))),
        row("RS384 named, RS256 signed", second.token_headed(edge, json!({ "alg": "RS384" }))),
        row("PS256 named, RS256 signed", second.token_headed(edge, json!({ "alg": "PS256" }))),
        row("signed by the embedded issuer", as_second(embedded, "rsa")),
        row("signed by the embedded issuer, with its kid", as_second(embedded, &embedded.kid)),
        row(
            "signs for the embedded issuer",
            second.token_with(edge, json!({ "iss": embedded.name, "aud": "istio-ca" })),
        ),
        row("its name with a slash behind", second.token_with(edge, json!({ "iss": "https://second.example/" }))),
    ]
}
