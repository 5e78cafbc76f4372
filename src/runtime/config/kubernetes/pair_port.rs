//! Where the replicas of a pair reach each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::runtime::{
    args::KubernetesArgs,
    config::{parse, sources::Sources},
};

/// The port of a replica for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPortConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others reach that.
    pub address: SocketAddr,
    /// Name and port of the headless Service.
    pub service: Option<(String, u16)>,
}

impl PairPortConfig {
    /// Its settings.
    pub(in crate::runtime::config) const FIELDS: [&'static str; 3] = ["pair_listen", "pair_address", "pair_service"];

    /// Reads them; what is wrong is noted in `from`.
    pub(in crate::runtime::config) fn read(from: &mut Sources) -> Option<Self> {
        from.require("pair_address");
        let is_listen_chosen = from.is_chosen("pair_listen");
        let listen = from.one("pair_listen", parse::socket_address);
        // a wrong one has been noted
        let listens_on = listen.map_or(1, |listen| listen.port());
        let address = from.one("pair_address", |text| reachable(text, listens_on));
        let service =
            from.one("pair_service", |text| parse::ca_address(text, None).map(|parts| (parts.host, parts.port)));
        let (listen, address) = (listen?, address?);
        let listen = if is_listen_chosen { listen } else { any_as(Some(address), listen.port()) };
        Some(Self { listen, address, service })
    }

    /// The same as texts.
    pub(in crate::runtime::config) fn tell(&self, args: &mut KubernetesArgs) {
        args.pair_listen = Some(self.listen.to_string());
        args.pair_address = Some(self.address.to_string());
        args.pair_service = self.service.as_ref().map(|(name, port)| parse::host_and_port(name, *port));
    }
}

/// Every interface of a pod with this address. `[::]` hears IPv4 as well, but not every pod has IPv6.
pub(in crate::runtime::config) fn any_as(pod: Option<SocketAddr>, port: u16) -> SocketAddr {
    let any: IpAddr = match pod {
        Some(SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    (any, port).into()
}

/// The downward API has a pod's IP without brackets and without a port.
fn reachable(text: &str, listens_on: u16) -> Result<SocketAddr, String> {
    let address = match text.parse::<IpAddr>() {
        Ok(ip) => (ip, listens_on).into(),
        Err(_no_ip) => parse::socket_address(text).map_err(|error| format!("{error}, or give the IP alone"))?,
    };
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!(
            "{text:?} is no address that others could reach: give this pod's IP and the port of pairListen"
        ));
    }
    Ok(address)
}
