//! Validation contexts on the agent's socket: a real Envoy accepts behind a Service whom the policy names, and nobody else.

mod asked;
mod explained;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};
use tokio::runtime::Runtime;

use self::explained::{enforced_soon, enforcement, enforcement_of};
pub(super) use self::{
    asked::{answers, begins, refuses, soon},
    explained::enforcement_at,
};
use super::{
    TEAM, accepted::Accepted, create, installed, label, pod_of, policy_at, runtime, said, service_of, start_as,
};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    mesh::gateway::{Expected, Gateway},
    network::{Network, in_own_network},
    pair::{TRUST_DOMAIN, replica::Replica, roots, token_file},
    support::{
        authority::{Authority, CaDir, Kind},
        countersign::countersign,
        http::{self, free_port, loopback},
        process::Process,
        wait::wait_until,
    },
};

const START: Duration = Duration::from_secs(20);
/// Envoy waits 15 s for a context that it is not given.
const WARM_UP: Duration = Duration::from_secs(20);
/// From a change in the cluster to its effect on a request.
const EFFECT: Duration = Duration::from_secs(1);

/// An agent that says nothing any more is forgotten: by the replica to which it spoke after 12 s, by another 6 s later.
const FORGOTTEN: Duration = Duration::from_secs(22);

pub(super) struct Agent {
    pub(super) process: Process,
    pub(super) socket: PathBuf,
    pub(super) output: PathBuf,
    admin: u16,
}

impl Agent {
    fn start(name: &str, cluster: &Cluster, replica: &Replica, token: &Path, flags: &[&str]) -> Self {
        let address = replica.address();
        let of_pair = ["--trust-domain", TRUST_DOMAIN, "--ca-server-name", "localhost", "--ca-address", &address];
        Self::start_with(name, cluster.folder(), &roots(cluster), token, &[&of_pair, flags].concat())
    }

    /// The flags say of which trust domain it is, and who is asked.
    pub(super) fn start_with(name: &str, folder: &Path, roots: &str, token: &Path, flags: &[&str]) -> Self {
        let [socket, output, root_file] = ["sock", "output", "roots"].map(|end| folder.join(format!("{name}.{end}")));
        fs::write(&root_file, roots).unwrap();
        let admin = free_port();
        let mut command = countersign();
        command.arg("agent").arg("--token-file").arg(token);
        command.arg("--root-file").arg(root_file).arg("--socket").arg(&socket).arg("--output-dir").arg(&output);
        command.arg("--admin-listen").arg(loopback(admin).to_string()).args(flags);
        let process = Process::start(name, folder, &mut command);
        let agent = Self { process, socket, output, admin };
        wait_until(START, &format!("files of {name}"), || {
            let chain = agent.output.join("cert-chain.pem");
            if chain.exists() { Ok(()) } else { Err(agent.process.errors()) }
        });
        agent
    }

    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        let page = http::get(loopback(self.admin), "/metrics").unwrap();
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

/// A server with the SVID of whoever stands behind the Service, or of somebody else.
pub(super) fn backend(cluster: &Cluster, agent: &Agent) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-cert").arg(agent.output.join("cert-chain.pem")).arg("-key").arg(agent.output.join("key.pem"));
    command.arg("-cert_chain").arg(agent.output.join("cert-chain.pem"));
    let process = Process::start("backend", cluster.folder(), &mut command);
    wait_until(START, "the backend", || std::net::TcpStream::connect(loopback(port)).map(drop));
    (process, port)
}

/// A file with a token of the account, bound to the pod.
pub(super) fn token_of_pod(cluster: &Cluster, account: &Account, pod: &str) -> PathBuf {
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some(pod), ..TokenFor::default() };
    let path = cluster.folder().join("backend-token");
    fs::write(&path, block_on(cluster.token(account, &asked))).unwrap();
    path
}

pub(super) const ENFORCED: &str = "\"Enforced\"";
const UNASKED: &str = "\"NotEnforced\": \"no gateway is known to ask";

/// Each change of whether the policy is in force, as `policy watch` has told it.
fn told(watch: &Process) -> Vec<String> {
    let lines = watch.output();
    let updates = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let services = updates.flat_map(|update| update["services"].as_array().cloned().unwrap_or_default());
    let reason = |service: serde_json::Value| {
        let reasons = service["conditions"].as_array()?.iter().filter_map(|condition| condition["reason"].as_str());
        let reason = reasons.filter(|reason| reason.ends_with("Enforced")).map(str::to_owned).next();
        Some(format!("{} {}", service["identities"].as_array()?.len(), reason?))
    };
    let mut told: Vec<String> = services.filter_map(reason).collect();
    told.dedup();
    told
}

fn told_soon(watch: &Process, expected: &str) {
    wait_until(EFFECT, expected, || {
        let told = told(watch);
        if told.last().is_some_and(|last| last == expected) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

/// Two replicas, and a backend behind the Service that runs as `v1` in the pod `one`.
struct Stage {
    cluster: Cluster,
    replica: Replica,
    other: Replica,
    gateway_token: PathBuf,
    _server: Agent,
    _backend: Process,
    port: u16,
    runtime: Runtime,
    client: kube::Client,
    _ca: CaDir,
    _network: Network,
}

impl Stage {
    fn start(mut network: Network) -> Self {
        let cluster = Cluster::start_at(&network.host("api").place(), &[]);
        // below the mesh's root: else the trust domain could not be the mesh's
        let root = Authority::root("mesh");
        let ca = CaDir::mounted(&root.below("countersign", Kind::P256).cacerts(&root.certificate));
        let flags = ["--mesh-trust-domain", TRUST_DOMAIN, "--ca-dir", ca.path().to_str().unwrap()];
        let account = installed(&cluster);
        let replica = start_as("replica-a", &cluster, &account, network.host("a"), &flags);
        replica.wait_until_ready();
        let other = start_as("replica-b", &cluster, &account, network.host("b"), &flags);
        other.wait_until_ready();
        let gateway_token = block_on(token_file(&cluster, "gateway"));
        let runtime = runtime();
        let client = runtime.block_on(async { cluster.admin() });
        let backend_token = runtime.block_on(async {
            cluster.namespace_named(TEAM, &[]).await;
            create(Api::namespaced(client.clone(), TEAM), &service_of(TEAM, "backend")).await;
            cluster.account(TEAM, "v2").await;
            let account = cluster.account(TEAM, "v1").await;
            create(Api::namespaced(client.clone(), TEAM), &pod_of(TEAM, "one", "backend", "v1", true)).await;
            account
        });
        let token = token_of_pod(&cluster, &backend_token, "one");
        let server = Agent::start("behind", &cluster, &replica, &token, &[]);
        let (process, port) = backend(&cluster, &server);
        Self {
            cluster,
            replica,
            other,
            gateway_token,
            _server: server,
            _backend: process,
            port,
            runtime,
            client,
            _ca: ca,
            _network: network,
        }
    }

    fn agent(&self) -> Agent {
        let policies = ["--policy-address", &self.replica.address()];
        let agent = Agent::start("gateway-agent", &self.cluster, &self.replica, &self.gateway_token, &policies);
        wait_until(START, "policies at the agent", || agent.metric("countersign_policy_services{}").ok_or("none"));
        agent
    }

    fn gateway(&self, name: &str, agent: &Agent) -> Gateway {
        self.gateway_of("backend", name, agent)
    }

    /// One that knows the backend by what is said of another Service.
    fn gateway_of(&self, service: &str, name: &str, agent: &Agent) -> Gateway {
        let context = format!("validation/{TEAM}/{service}");
        Gateway::start(name, self.cluster.folder(), &agent.socket, loopback(self.port), &Expected::Context(&context))
    }

    fn put_pod(&self, name: &str, account: &str) {
        let pod = pod_of(TEAM, name, "backend", account, true);
        self.runtime.block_on(create(Api::namespaced(self.client.clone(), TEAM), &pod));
    }

    fn delete_pod(&self, name: &str) {
        block_on(self.cluster.delete_pod(TEAM, name));
    }

    fn set_label(&self, value: Option<&str>) {
        self.runtime.block_on(label(&self.client, TEAM, "istio-injection", value));
    }

    /// Of Services, in force and not.
    fn counted(&self) -> [Option<String>; 2] {
        let page = http::get(self.replica.admin(), "/metrics").unwrap();
        ["true", "false"].map(|value| {
            let name = format!("countersign_policy_services{{enforced=\"{value}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned))
        })
    }

    fn label_and_pods_come_and_go(&self, gateway: &Gateway, watch: &Process) {
        self.set_label(Some("enabled"));
        soon("an answer with the label", gateway, answers);
        enforced_soon("in force with the label", &self.replica, ENFORCED);
        // a proxy that takes nothing in
        gateway.process.pause();
        self.put_pod("two", "v2");
        told_soon(watch, "2 NotEnforced");
        gateway.process.resume();
        soon("an answer with a second account", gateway, answers);
        told_soon(watch, "2 Enforced");
        self.delete_pod("one");
        soon("a refusal of who is not behind the Service any more", gateway, refuses);
        self.delete_pod("two");
        soon("a refusal with nobody behind the Service", gateway, refuses);
        enforced_soon("in force for nobody", &self.replica, ENFORCED);
        self.put_pod("three", "v1");
        soon("an answer by a new pod of the account", gateway, answers);
        self.set_label(None);
        soon("an answer without the label, for a while", gateway, answers);
        self.set_label(Some("enabled"));
        soon("an answer with the label again", gateway, answers);
    }

    /// The Service goes and comes again, with somebody else behind it.
    fn the_service_is_made_again(&self, gateway: &Gateway) {
        let services: Api<Service> = Api::namespaced(self.client.clone(), TEAM);
        self.runtime.block_on(async { services.delete("backend", &DeleteParams::default()).await }).unwrap();
        soon("a refusal of who was behind a Service that is gone", gateway, refuses);
        let accepted = Accepted::watch(gateway);
        self.delete_pod("three");
        self.put_pod("four", "v2");
        self.runtime.block_on(create(services, &service_of(TEAM, "backend")));
        // there is nothing to explain until the replica has heard of it
        wait_until(EFFECT, "a policy of the new Service", || {
            let explained = policy_at(self.replica.data(), &["explain", &format!("{TEAM}/backend"), "-o", "json"]);
            if !explained.status.success() {
                return Err(String::from_utf8_lossy(&explained.stderr).into_owned());
            }
            if enforcement_of(&said(&explained)).is_empty() { Err("none".to_owned()) } else { Ok(()) }
        });
        soon("a refusal of who is not behind the new Service", gateway, refuses);
        accepted.check_none();
        self.put_pod("five", "v1");
        soon("an answer by who is", gateway, answers);
    }

    /// The Service goes, and comes again with somebody else behind it, while no replica is there to say so.
    fn the_service_is_made_again_while_the_pair_is_away(&mut self, gateway: &Gateway) {
        let services: Api<Service> = Api::namespaced(self.client.clone(), TEAM);
        self.runtime.block_on(async { services.delete("backend", &DeleteParams::default()).await }).unwrap();
        soon("an answer by who was behind a Service, as nobody says that it is gone", gateway, answers);
        self.restart();
        self.until_refused("a refusal of who was behind it once a replica is back", gateway);

        self.runtime.block_on(create(services.clone(), &service_of(TEAM, "backend")));
        soon("an answer by who is behind the new Service", gateway, answers);
        self.replica.stop();
        self.runtime.block_on(async { services.delete("backend", &DeleteParams::default()).await }).unwrap();
        self.delete_pod("five");
        self.runtime.block_on(create(services, &service_of(TEAM, "backend")));
        soon("an answer by who was behind the Service before", gateway, answers);
        self.restart();
        self.until_refused("a refusal of who is not behind the one of now once a replica is back", gateway);
        // the agent's reports have to find the replica first, for which they take up to 2 s
        wait_until(START, "in force for the one of now", || {
            Some(enforcement(&self.replica)).filter(|said| said.starts_with(ENFORCED)).ok_or("it is not")
        });
    }

    fn restart(&mut self) {
        self.replica.restart();
        self.replica.wait_until_ready();
    }

    /// By when the agent has found the replica again. From then on nobody is answered.
    fn until_refused(&self, what: &str, gateway: &Gateway) {
        wait_until(START, what, || refuses(gateway));
        Accepted::watch(gateway).check_none_of(200);
    }

    /// An agent that never heard of any policy tells its gateway of nobody.
    fn while_nobody_tells(&self) {
        let away = ["--policy-address", &self.replica.address()];
        let agent = Agent::start("agent-alone", &self.cluster, &self.other, &self.gateway_token, &away);
        let gateway = self.gateway("gateway-alone", &agent);
        wait_until(WARM_UP, "a refusal by who has not been told whom to accept", || {
            match http::get(gateway.address, "/") {
                Ok(answer) => panic!("{answer}"),
                Err(why) if why.starts_with("status 503") => Ok(()),
                Err(why) => Err(why),
            }
        });
        soon("a refusal by who has not been told whom to accept", &gateway, refuses);
        assert!(agent.process.errors().contains("policy_stream_lost"), "{}", agent.process.errors());
    }

    fn gateways_come_and_go(&self, gateway: Gateway, agent: &Agent) -> Gateway {
        let counts = |enforced: &str, not: &str| [Some(enforced.to_owned()), Some(not.to_owned())];
        enforced_soon("in force again", &self.replica, ENFORCED);
        assert_eq!(self.counted(), counts("1", "0"));
        enforced_soon("in force, as the other replica knows it", &self.other, ENFORCED);
        drop(gateway);
        enforced_soon("nothing in force, as the other replica knows it", &self.other, UNASKED);
        enforced_soon("nothing in force without the gateway's proxy", &self.replica, UNASKED);
        assert_eq!(self.counted(), counts("0", "1"));
        let gateway = self.gateway("gateway-again", agent);
        begins("an answer by a proxy that was started anew", &gateway, answers);
        enforced_soon("in force with the new proxy", &self.replica, ENFORCED);
        enforced_soon("in force with the new proxy, as the other replica knows it", &self.other, ENFORCED);
        gateway
    }
}

#[test]
fn a_gateway_accepts_whom_the_policy_of_a_service_names_and_nobody_else() {
    in_own_network(
        "policy::contexts::a_gateway_accepts_whom_the_policy_of_a_service_names_and_nobody_else",
        |network| {
            let mut stage = Stage::start(network);
            assert_eq!(enforcement(&stage.replica), "", "no policy, so nothing to be in force");
            stage.set_label(Some("enabled"));
            enforced_soon("nothing in force with a new label and no gateway", &stage.replica, UNASKED);
            stage.set_label(None);
            let mut watch = countersign();
            watch.args(["policy", "watch", "-o", "json", "--data-dir"]).arg(stage.replica.data());
            let watch = Process::start("watch", stage.cluster.folder(), &mut watch);
            // which has heard of no label
            wait_until(EFFECT, "no policy", || match enforcement(&stage.replica) {
                said if said.is_empty() => Ok(()),
                said => Err(said),
            });
            let agent = stage.agent();
            let gateway = stage.gateway("gateway", &agent);
            begins("a refusal while no policy names anybody", &gateway, refuses);
            let of_none = stage.gateway_of("no-such-service", "gateway-of-none", &agent);
            begins("a refusal behind a Service that does not exist", &of_none, refuses);
            stage.label_and_pods_come_and_go(&gateway, &watch);
            stage.the_service_is_made_again(&gateway);
            soon("a refusal behind a Service that does not exist, still", &of_none, refuses);
            drop(of_none);
            let gateway = stage.gateways_come_and_go(gateway, &agent);

            stage.replica.stop();
            assert!(agent.process.errors().contains("policy_stream_lost"), "{}", agent.process.errors());
            soon("an answer while the pair is away", &gateway, answers);
            assert!(agent.metric("countersign_policy_confirmed_timestamp_seconds{}").is_some());
            stage.while_nobody_tells();
            wait_until(FORGOTTEN, "the agent forgotten by the other replica, to which it does not speak", || {
                let said = enforcement(&stage.other);
                if said.starts_with(UNASKED) { Ok(()) } else { Err(said) }
            });
            stage.other.stop();
            stage.the_service_is_made_again_while_the_pair_is_away(&gateway);
            stage.replica.stop();
        },
    );
}
