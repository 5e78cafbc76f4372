//! Istio's own processes: istiod, pilot-agent with a real Envoy, and pilot-agent's CA client, beside a pair.

mod istiod;
mod pilot_agent;

#[cfg(test)]
mod first {
    use std::time::Duration;

    use super::{
        istiod::{self, Ca, Istiod},
        pilot_agent::{PilotAgent, Wanted},
    };
    use crate::{
        cluster::Cluster,
        support::authority::{Authority, Kind},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn istiod_and_pilot_agent() {
        let cluster = Cluster::start();
        let account = istiod::prepare(&cluster).await;
        let root = Authority::root("mesh");
        let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
        let istiod = Istiod::start(&cluster, &account, Ca::Own(&files), &[]).await;
        let app = cluster.account("default", "app").await;
        let address = istiod.address();
        let wanted = Wanted { ca: &address, istiod: &address, roots: &root.certificate, ttl: Duration::from_secs(16) };
        let agent = PilotAgent::start("app-0", &cluster, &app, &wanted).await;
        println!("{:?}", agent.leaf());
        istiod.wait_for_proxies(1);
        agent.wait_for_rotations(2, Duration::from_secs(40));
        println!("{}", agent.log());
        let s = agent.secrets().unwrap();
        let (leaf, above) = s.chain.split_at(s.chain.find("-----END").unwrap() + 26);
        crate::support::openssl::verify(leaf, above, &s.roots);
        println!("{}", crate::support::openssl::served(istiod.port, istiod::SERVER_NAME, &root.certificate).unwrap());
    }
}
