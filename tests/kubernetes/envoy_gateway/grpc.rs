//! gRPC by way of the gateway: it needs HTTP/2 to the backend, and trailers that come through.

use std::net::SocketAddr;

use tonic::{
    codegen::http::Uri,
    transport::{Endpoint, Server},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    HTTP_PORT, Place, TEAM,
    backend::{App, Class, Mode},
    objects,
};
use crate::{network::in_own_network, support::wait::wait_until};

const CHANGE: std::time::Duration = std::time::Duration::from_secs(30);

#[test]
fn trailers_come_through_by_grpc_route_and_by_h2c() {
    in_own_network("envoy_gateway::grpc::trailers_come_through_by_grpc_route_and_by_h2c", |network| {
        let server: SocketAddr = (network.address(), crate::support::http::free_port()).into();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        runtime.spawn(Server::builder().add_service(health).serve(server));
        runtime.block_on(reporter.set_service_status("known", tonic_health::ServingStatus::Serving));

        let mut place = Place::start(network);
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        let kinds = [("by-route", Class::Grpc), ("by-h2c", Class::H2c)];
        let backends = kinds.map(|(name, class)| place.backend(name, name, (Mode::Strict, class, App::Grpc(server))));
        for ((name, class), backend) in kinds.into_iter().zip(&backends) {
            place.apply(&objects::service(TEAM, name, class, &[backend.ip()]));
            place.apply(&objects::pod(TEAM, name, name, name, true));
            place.apply(&objects::policy(TEAM, name));
        }
        place.wait_for_services(2);
        place.apply(&objects::grpc_route(TEAM, "by-route", "by-route.test", &["by-route"]));
        place.apply(&objects::http_route(TEAM, "by-h2c", "by-h2c.test", &["by-h2c"]));

        let gateway = place.pod.at(HTTP_PORT);
        for mode in [Mode::Strict, Mode::Permissive] {
            backends.iter().for_each(|backend| backend.set(mode));
            for ((name, _), backend) in kinds.iter().zip(&backends) {
                let host = format!("{name}.test");
                let status = wait_until(CHANGE, &format!("an answer {name}, {mode:?}"), || {
                    runtime.block_on(check(gateway, &host, "known"))
                });
                assert_eq!(status, "0", "{name}, {mode:?}");
                let unknown = runtime.block_on(check(gateway, &host, "unknown")).unwrap_err();
                assert!(unknown.contains("NotFound"), "{unknown}");
                let last = wait_until(CHANGE, "the log", || {
                    let log = backend.log().requests();
                    log.into_iter().rev().find(|request| request["grpc"] == "0").ok_or("no trailers yet")
                });
                assert_eq!((&last["chain"], &last["protocol"]), (&"mutual".into(), &"HTTP/2".into()), "{last}");
            }
        }
    });
}

/// A call on a connection of its own: the status in its trailers.
pub(super) async fn check(gateway: SocketAddr, host: &str, service: &str) -> Result<String, String> {
    let origin: Uri = format!("http://{host}").parse().unwrap();
    let channel = Endpoint::from_shared(format!("http://{gateway}")).unwrap().origin(origin).connect().await;
    let channel = channel.map_err(|error| error.to_string())?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.map_err(|status| format!("{status:?}"))?;
    let status = answer.metadata().get("grpc-status").ok_or_else(|| format!("no trailers: {answer:?}"))?;
    Ok(status.to_str().unwrap().to_owned())
}
