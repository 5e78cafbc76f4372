//! `policy gateways`: which Gateways can send requests to Services of the mesh, and what stands in the way of the others.

use std::{
    fmt::{self, Write as _},
    io,
};

use super::{Policies, aligned, escaped, or_dash, readiness, reasons};
use crate::{cli::issuance::ListForm, service::policy_view::GatewayView};

/// All of them, or those of one namespace. What is said of them follows the table in words.
///
/// # Errors
///
/// When a serializer fails.
pub fn gateways(policies: &Policies, namespace: Option<&str>, form: ListForm) -> io::Result<String> {
    let all = policies.gateways.values();
    let shown: Vec<&GatewayView> =
        all.filter(|gateway| namespace.is_none_or(|wanted| wanted == gateway.namespace)).collect();
    form.render(&shown[..], table)
}

fn table(gateways: &[&GatewayView]) -> Result<String, fmt::Error> {
    let mut rows = vec![["NAMESPACE", "GATEWAY", "STATE", "IDENTITIES", "CONDITIONS"].map(str::to_owned)];
    rows.extend(gateways.iter().map(|gateway| {
        [
            gateway.namespace.clone(),
            gateway.name.clone(),
            readiness(gateway).to_owned(),
            or_dash(gateway.identities.join(",")),
            reasons(&gateway.conditions),
        ]
    }));
    let mut text = aligned(&rows)?;
    for gateway in gateways.iter().filter(|gateway| !gateway.conditions.is_empty()) {
        writeln!(text, "\nGateway {}/{}", escaped(&gateway.namespace), escaped(&gateway.name))?;
        super::tell(&mut text, "  ", &gateway.conditions)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::policy_view::{ConditionView, PolicyUpdate};

    #[test]
    fn gateways_are_listed_with_what_stands_in_their_way() {
        let gateway = |namespace: &str, ready| GatewayView {
            namespace: namespace.into(),
            name: "public".into(),
            ready,
            identities: Vec::new(),
            conditions: if ready {
                Vec::new()
            } else {
                let [reason, severity, message] = ["SdsNotEnabled", "error", "set it"].map(str::to_owned);
                vec![ConditionView { reason, severity, message }]
            },
        };
        let mut policies = Policies::default();
        let both = vec![gateway("a", true), gateway("b", false)];
        policies.take(PolicyUpdate { reset: true, gateways: both, ..PolicyUpdate::default() });
        let text = gateways(&policies, None, ListForm::Table).unwrap();
        assert!(text.contains("a          public   ready      -           -\n"), "{text}");
        assert!(text.ends_with("\nGateway b/public\n  error SdsNotEnabled: set it\n"), "{text}");
        policies.take(PolicyUpdate { gateways_gone: vec!["b/public".into()], ..PolicyUpdate::default() });
        assert!(!gateways(&policies, None, ListForm::Table).unwrap().contains("SdsNotEnabled"));
        let none: serde_json::Value =
            serde_json::from_str(&gateways(&policies, Some("b"), ListForm::Json).unwrap()).unwrap();
        assert_eq!(none, serde_json::json!([]));
    }
}
