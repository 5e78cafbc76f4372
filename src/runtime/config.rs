//! The configuration of `serve` and `agent`: every value parsed into its domain type before anything is started.
//! The rules that hold for all settings (sources, forms, reports) live in the modules below; which settings there are
//! is declared in `args`.

mod authority;
mod bundle_endpoint;
mod federation;
mod followed_roots;
mod identities;
mod istio;
mod istiod;
mod kubernetes;
mod outputs;
mod parse;
mod reference;
mod sources;
mod token_issuers;
mod ttl;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use rustls::pki_types::ServerName;
use serde_yaml_ng::{Mapping, Value};

pub use self::{
    authority::{AuthorityConfig, BundleSource},
    bundle_endpoint::BundleEndpointConfig,
    federation::FederationConfig,
    followed_roots::FollowedRootsConfig,
    identities::{IdentitiesConfig, IdentityConfig},
    istiod::{FollowedPolicy, IstiodClusterConfig, IstiodConfig, JwtSvidsConfig},
    kubernetes::{KubernetesConfig, PairPortConfig, PolicyConfig, PolicyMembership, TokenReviewConfig},
    outputs::{NoticeConfig, OutputConfig},
    token_issuers::TokenIssuerConfig,
};
use self::{
    federation::{FEDERATION, FederationFile, federation},
    istio::IstioVariables,
    istiod::Source,
    sources::Sources,
    token_issuers::{TOKEN_ISSUERS, TokenIssuerFile, token_issuers},
};
use super::{
    args::{AgentArgs, ServeArgs},
    duration, names,
};
use crate::{
    domain::{
        authority::TtlBounds,
        identity::{ServiceAccount, TrustDomain},
    },
    grpc::ca_client::CaEndpoint,
};

/// The process's environment, handed in: only `commands` reads the real one.
pub type Environment = BTreeMap<String, String>;

/// What `serve` runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    /// What counts in Kubernetes only; without it, and without istiod, the pair is embedded.
    pub kubernetes: Option<KubernetesConfig>,
    /// What counts where istiod signs.
    pub istiod: Option<IstiodConfig>,
    /// Where state is kept: all of it if embedded, else the issuance log.
    pub data_dir: PathBuf,
    /// Where the plugged-in signing authority is; without one there is a root of our own.
    pub ca_dir: Option<PathBuf>,
    /// Of the CA API.
    pub listen: ListenAddress,
    /// Of health and metrics.
    pub admin_listen: ListenAddress,
    /// Of the identities that are issued.
    pub trust_domain: TrustDomain,
    /// How long SVIDs may live.
    pub ttl: TtlBounds,
    /// How long JWT-SVIDs live at most, and unless less is asked for: whole seconds.
    pub jwt_svid_ttl: Duration,
    /// In the serving certificate; at least one.
    pub dns_names: Vec<String>,
    /// Path of the workload socket, at most 107 bytes; none in Kubernetes unless it was chosen.
    pub workload_socket: Option<PathBuf>,
    /// Whose identity that socket serves.
    pub workload: ServiceAccount,
    /// How long to accept and forward after SIGTERM.
    pub drain: Duration,
    /// Where others fetch the trust bundle, if they can.
    pub bundle_endpoint: Option<BundleEndpointConfig>,
    /// Of the log lines.
    pub log_format: LogFormat,
    /// Whose tokens are proofs, beside those of the embedded issuer.
    pub token_issuers: Vec<TokenIssuerConfig>,
    /// Whose bundles are fetched, beside those that operators name.
    pub federation: Vec<FederationConfig>,
}

/// What `agent` runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// Who is asked.
    pub authority: AuthorityConfig,
    /// Whose.
    pub identities: IdentitiesConfig,
    /// Path of the socket, at most 107 bytes.
    pub socket: PathBuf,
    /// Its mode, at most 0777.
    pub socket_mode: u32,
    /// Users who may connect. Everybody may if this and `allow_gids` are empty.
    pub allow_uids: Vec<u32>,
    /// Groups whose processes may connect.
    pub allow_gids: Vec<u32>,
    /// Of the identity.
    pub trust_domain: TrustDomain,
    /// Validity to ask for, whole seconds.
    pub svid_ttl: Duration,
    /// Files with the SVID, beside the socket.
    pub output: Option<OutputConfig>,
    /// Of health and metrics.
    pub admin_listen: Option<SocketAddr>,
    /// Of the log lines.
    pub log_format: LogFormat,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Where.
    pub address: SocketAddr,
    /// Whether the operator chose it. A default gives way to a free port when a replica of the same data directory holds
    /// it; a choice does not.
    pub chosen: bool,
}

/// Where a certificate authority answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaAddress {
    /// A name or an IP address, the latter without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What its certificate must hold.
    pub server_name: ServerName<'static>,
}

impl CaAddress {
    /// As whoever connects to it takes it.
    pub fn endpoint(&self) -> CaEndpoint {
        CaEndpoint {
            address: parse::host_and_port(&self.host, self.port),
            server_name: self.server_name.to_str().into_owned(),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Everything that is wrong with a configuration. Each line names the setting, where it was given, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration can't be used:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// Endpoints go on naming a pod that ends for about as long.
const DRAIN_IN_KUBERNETES: Duration = Duration::from_secs(5);

impl ServeConfig {
    /// From flags, environment, file and defaults.
    ///
    /// # Errors
    ///
    /// All that is wrong, in all sources.
    pub fn load(flags: &ServeArgs, environment: &Environment) -> Result<Self, ConfigError> {
        let fields = reference::fields("serve");
        let file = flags.config.as_deref();
        let mut from =
            Sources::new(flags, &ServeArgs::defaults(), environment, file, &fields, &[TOKEN_ISSUERS, FEDERATION]);
        let config = Self::read(&mut from);
        from.finish(config)
    }

    fn read(from: &mut Sources) -> Option<Self> {
        let in_kubernetes = from.one("state", parse::in_kubernetes);
        let source = istiod::source(from);
        let (in_kubernetes, passes_on) = (in_kubernetes?, source? == Source::Istiod);
        let istiod = passes_on.then(|| IstiodConfig::read(from, in_kubernetes));
        let kubernetes = (in_kubernetes && !passes_on).then(|| KubernetesConfig::read(from));
        if !passes_on {
            istiod::refuse_all(from);
        }
        if !in_kubernetes {
            kubernetes::refuse_all(from, passes_on);
        }
        let data_dir = from.one("data_dir", parse::data_dir);
        let ca_dir = from.one("ca_dir", parse::path);
        let pod = in_kubernetes.then(|| pod_address(kubernetes.as_ref(), istiod.as_ref()));
        let (listen, admin_listen) = listen_addresses(from, pod);
        let trust_domain = from.one("trust_domain", parse::displayed);
        let (ttl, jwt_svid_ttl) = (ttl::ttl_bounds(from), ttl::jwt_svid_ttl(from));
        let dns_names = from.many("dns_names", parse::dns_name);
        from.require("dns_names");
        let workload_socket = match (from.one("workload_socket", parse::socket_path), &data_dir) {
            (None, Some(dir)) if !in_kubernetes && !passes_on && !from.is_chosen("workload_socket") => {
                Some(dir.join("workload.sock"))
            }
            (socket, _) => socket,
        };
        let workload = from.one("workload", parse::displayed);
        let drain = match from.one("drain", duration::parse) {
            Some(_) if in_kubernetes && !from.is_chosen("drain") => Some(DRAIN_IN_KUBERNETES),
            drain => drain,
        };
        let bundle_endpoint = BundleEndpointConfig::read(from, !in_kubernetes && !passes_on);
        let log_format = from.one("log_format", parse::log_format);
        let token_issuers = token_issuers(from);
        if passes_on && !token_issuers.is_empty() {
            from.refuse(TOKEN_ISSUERS, "do not count with source istiod: leave them out");
        }
        let federation = federation(from, trust_domain.as_ref(), istiod.iter().flatten().any(|of| !of.mints()));
        let kubernetes = kubernetes.map_or(Some(None), |kubernetes| kubernetes.map(Some))?;
        let istiod = istiod.map_or(Some(None), |istiod| istiod.map(Some))?;
        let trust_domain = trust_domain?;
        kubernetes::refuse_second_root(from, kubernetes.as_ref(), ca_dir.is_some(), &trust_domain);
        Some(Self {
            kubernetes,
            istiod,
            data_dir: data_dir?,
            ca_dir,
            listen: listen?,
            admin_listen: admin_listen?,
            trust_domain,
            ttl: ttl?,
            jwt_svid_ttl: jwt_svid_ttl?,
            dns_names,
            workload_socket,
            workload: workload?,
            drain: drain?,
            bundle_endpoint: bundle_endpoint?,
            log_format: log_format?,
            token_issuers,
            federation,
        })
    }

    /// In the form of the configuration file; reading it again gives the same configuration.
    ///
    /// # Errors
    ///
    /// Never for a configuration that was loaded; the serializer is asked all the same.
    pub fn to_yaml(&self) -> Result<String, serde_yaml_ng::Error> {
        let istiod = self.istiod.as_ref();
        let with_istiod = istiod.and_then(|istiod| Some(istiod.cluster.as_ref()?.to_args()));
        let kubernetes = self.kubernetes.as_ref().map(KubernetesConfig::to_args).or(with_istiod);
        let source = if istiod.is_some() {
            "istiod"
        } else if self.ca_dir.is_some() {
            "plugged-in"
        } else {
            "self-signed"
        };
        let state = if kubernetes.is_some() { "kubernetes" } else { "embedded" };
        let mut kubernetes = kubernetes.unwrap_or_default();
        if let Some(istiod) = istiod {
            kubernetes.cluster_id.clone_from(&istiod.cluster_id);
        }
        let own = |text: String| Some(text).filter(|_| istiod.is_none());
        let texts = ServeArgs {
            state: Some(state.to_owned()),
            source: Some(source.to_owned()),
            bundle_endpoint: self.bundle_endpoint.as_ref().map(BundleEndpointConfig::to_args).unwrap_or_default(),
            istiod: istiod.map(IstiodConfig::to_args).unwrap_or_default(),
            kubernetes,
            data_dir: Some(self.data_dir.display().to_string()),
            ca_dir: self.ca_dir.as_ref().map(|dir| dir.display().to_string()),
            listen: Some(self.listen.address.to_string()),
            admin_listen: Some(self.admin_listen.address.to_string()),
            trust_domain: Some(self.trust_domain.to_string()),
            svid_ttl: own(duration::format(self.ttl.default_ttl())),
            max_svid_ttl: own(duration::format(self.ttl.max_ttl())),
            jwt_svid_ttl: Some(duration::format(self.jwt_svid_ttl)).filter(|_| istiod.is_none_or(IstiodConfig::mints)),
            dns_names: Some(self.dns_names.clone()).filter(|_| istiod.is_none()),
            workload_socket: self.workload_socket.as_ref().map(|path| path.display().to_string()),
            workload: own(self.workload.to_string()),
            drain: Some(duration::format(self.drain)),
            log_format: Some(self.log_format.to_string()),
            config: None,
        };
        let mut texts = names::texts_of(&texts);
        let mut file = Mapping::new();
        for field in reference::fields("serve") {
            let Some(values) = texts.remove(&field) else { continue };
            let value = if reference::is_list(&field) { values.into() } else { Value::from(values.concat()) };
            file.insert(names::file_key(&field).into(), value);
        }
        let issuers: Vec<TokenIssuerFile> = self.token_issuers.iter().map(TokenIssuerFile::from).collect();
        file.insert(TOKEN_ISSUERS.into(), serde_yaml_ng::to_value(issuers)?);
        let federation: Vec<FederationFile> = self.federation.iter().map(FederationFile::from).collect();
        file.insert(FEDERATION.into(), serde_yaml_ng::to_value(federation)?);
        serde_yaml_ng::to_string(&file)
    }
}

impl AgentConfig {
    /// From flags, environment, file and defaults.
    ///
    /// # Errors
    ///
    /// All that is wrong, in all sources.
    pub fn load(flags: &AgentArgs, environment: &Environment) -> Result<Self, ConfigError> {
        let fields = reference::fields("agent");
        let file = flags.config.as_deref();
        // what the kubelet gives every container
        let is_pod = environment.get("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty());
        let defaults = if is_pod { AgentArgs::defaults_in_pod() } else { AgentArgs::defaults() };
        let mut from = Sources::new(flags, &defaults, environment, file, &fields, &[]);
        from.add_istios(IstioVariables::read(environment));
        let config = Self::read(&mut from, environment);
        from.finish(config)
    }

    fn read(from: &mut Sources, environment: &Environment) -> Option<Self> {
        let authority = AuthorityConfig::read(from);
        let identities = IdentitiesConfig::read(from);
        let socket = from.one("socket", parse::socket_path);
        let socket_mode = from.one("socket_mode", parse::file_mode);
        let allow_uids = from.many("allow_uids", parse::numeric_id);
        let allow_gids = from.many("allow_gids", parse::numeric_id);
        let trust_domain = from.one("trust_domain", parse::displayed);
        let svid_ttl = from.one("svid_ttl", duration::parse_whole_seconds);
        let output = OutputConfig::read(from, environment);
        let admin_listen = from.one("admin_listen", parse::socket_address);
        let log_format = from.one("log_format", parse::log_format);
        Some(Self {
            authority: authority?,
            identities: identities?,
            socket: socket?,
            socket_mode: socket_mode?,
            allow_uids,
            allow_gids,
            trust_domain: trust_domain?,
            svid_ttl: svid_ttl?,
            output,
            admin_listen,
            log_format: log_format?,
        })
    }
}

/// Of this pod, if it has told the others one.
fn pod_address(
    kubernetes: Option<&Option<KubernetesConfig>>,
    istiod: Option<&Option<IstiodConfig>>,
) -> Option<SocketAddr> {
    let cluster = istiod.and_then(|istiod| istiod.as_ref()?.cluster.as_ref());
    let pair = kubernetes.and_then(|kubernetes| Some(&kubernetes.as_ref()?.pair));
    pair.or(cluster.and_then(IstiodClusterConfig::pair)).map(|pair| pair.address)
}

/// Of the CA API, and of health and metrics. In a pod, `Some` even if its address is not known, the default is every interface, and
/// nothing gives way.
fn listen_addresses(
    from: &mut Sources,
    pod: Option<Option<SocketAddr>>,
) -> (Option<ListenAddress>, Option<ListenAddress>) {
    let mut read = |field, port| match (pod, from.is_chosen(field)) {
        (Some(pod), false) => Some(ListenAddress { address: kubernetes::any_as(pod, port), chosen: true }),
        (_, chosen) => from.one(field, parse::socket_address).map(|address| ListenAddress { address, chosen }),
    };
    (read("listen", 15012), read("admin_listen", 15020))
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests;
