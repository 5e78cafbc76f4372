//! One validation context for all trust domains, by Envoy's SPIFFE validator.

use std::time::Duration;

use tempfile::TempDir;

use crate::{
    envoy::{AccessLog, Envoy},
    envoy_config::{self, Sds},
    support::{
        countersign::{Agent, Serve},
        http,
        wait::wait_until,
    },
};

const BACKEND: &str = "spiffe://cluster.local/ns/prod/sa/backend";
const GATEWAY: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const WARM_UP: Duration = Duration::from_secs(30);

#[test]
fn an_envoy_with_all_of_them_accepts_our_own_and_refuses_whom_another_root_has_signed() {
    let dir = TempDir::new().unwrap();
    let (own, other) = (dir.path().join("own"), dir.path().join("other"));
    let serves =
        [("serve", &own), ("serve-other", &other)].map(|(name, data)| Serve::start(name, dir.path(), data, &[]));
    let agent = |name: &str, account: &str, is_own: bool| {
        let (serve, data) = if is_own { (&serves[0], &own) } else { (&serves[1], &other) };
        Agent::start(name, dir.path(), data, account, &[serve.address()], "1h")
    };
    let agents = [agent("backend", "prod/backend", true), agent("gateway", "default/gateway", true)];
    // the same name by another root
    let stranger = agent("stranger", "default/gateway", false);

    let log = dir.path().join("access.log");
    let backend = envoy_config::backend_of(&agents[0].socket, "ALL", &[GATEWAY], &log);
    let backend = Envoy::start("envoy-backend", dir.path(), &backend);
    let port = backend.address.port();
    let gateway = envoy_config::gateway(&agents[1].socket, Sds::StateOfTheWorld, port, BACKEND);
    let gateway = Envoy::start("envoy-gateway", dir.path(), &gateway);
    let config = envoy_config::gateway_of_all(&stranger.socket, Sds::StateOfTheWorld, port);
    let stranger = Envoy::start("envoy-stranger", dir.path(), &config);

    let answer = wait_until(WARM_UP, "our own gateway at the backend", || http::get(gateway.address, "/own"));
    assert_eq!(answer, "backend");
    assert_eq!(backend.callers_refused(), 0);
    let refusal = wait_until(WARM_UP, "the stranger refused", || {
        let answer = http::get(stranger.address, "/stranger").expect_err("whom another root has signed is refused");
        if backend.callers_refused() > 0 { Ok(answer) } else { Err(answer) }
    });
    assert!(refusal.contains("status 503"), "{refusal}");
    assert_eq!(http::get(gateway.address, "/own").as_deref(), Ok("backend"));

    let mut log = AccessLog::at(log);
    wait_until(WARM_UP, "both of our own in the log", || match log.requests().len() {
        count if count >= 2 => Ok(()),
        count => Err(count),
    });
    for request in log.requests() {
        assert_eq!((request.client.as_str(), request.path.as_str()), (GATEWAY, "/own"));
    }
    let (taken, refused) = backend.secrets_taken_and_refused();
    assert!(taken >= 2 && refused == 0, "{taken} secrets taken, {refused} refused");
}
