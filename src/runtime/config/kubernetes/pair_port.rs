//! Where the replicas of a pair reach each other.

use std::net::SocketAddr;

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
        let listen = from.one("pair_listen", parse::socket_address);
        let address = from.one("pair_address", reachable);
        let service =
            from.one("pair_service", |text| parse::ca_address(text, None).map(|parts| (parts.host, parts.port)));
        Some(Self { listen: listen?, address: address?, service })
    }

    /// The same as texts.
    pub(in crate::runtime::config) fn tell(&self, args: &mut KubernetesArgs) {
        args.pair_listen = Some(self.listen.to_string());
        args.pair_address = Some(self.address.to_string());
        args.pair_service = self.service.as_ref().map(|(name, port)| format!("{name}:{port}"));
    }
}

fn reachable(text: &str) -> Result<SocketAddr, String> {
    let address = parse::socket_address(text)?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!(
            "{text:?} is no address that others could reach: give this pod's IP and the port of pairListen"
        ));
    }
    Ok(address)
}
