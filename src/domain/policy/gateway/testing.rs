//! A cluster in which nothing is yet.

use super::{BackendTlsApi, EnvoyGatewaySettings, GatewayChange};
use crate::domain::policy::Change;

/// That there is nothing of any kind, and that the current BackendTLSPolicy is served.
pub(crate) fn nothing_there() -> [GatewayChange; 12] {
    [
        GatewayChange::Classes(Change::Reset(Vec::new())),
        GatewayChange::Gateways(Change::Reset(Vec::new())),
        GatewayChange::ListenerSets(Change::Reset(Vec::new())),
        GatewayChange::HttpRoutes(Change::Reset(Vec::new())),
        GatewayChange::GrpcRoutes(Change::Reset(Vec::new())),
        GatewayChange::Grants(Change::Reset(Vec::new())),
        GatewayChange::TlsPolicies(Change::Reset(Vec::new())),
        GatewayChange::EnvoyProxies(Change::Reset(Vec::new())),
        GatewayChange::SdsSecrets(Change::Reset(Vec::new())),
        GatewayChange::EnvoyBackends(Change::Reset(Vec::new())),
        GatewayChange::Settings(EnvoyGatewaySettings::default()),
        GatewayChange::BackendTlsApi(BackendTlsApi::V1),
    ]
}
