//! A kubelet's part for the pods of one gateway: it reads the Deployment that Envoy Gateway wrote, and nothing else says what runs.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Container, PodSpec, PodTemplateSpec, Probe, Volume},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    controller::{self, Controller},
    file_system::{FileSystem, write_all},
};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    network::Host,
    support::{countersign::countersign, http, peer::peer, process::Process, wait::wait_until},
};

const DEPLOYMENT: Duration = Duration::from_secs(20);
/// Envoy waits at most 15 s for what it has not been given yet.
const START: Duration = Duration::from_secs(30);

/// The Deployment of a gateway, once it is as wanted.
pub(super) fn deployment(
    cluster: &Cluster,
    gateway: &str,
    wanted: impl Fn(&PodSpec) -> Result<(), String>,
) -> Deployment {
    let labelled = ListParams::default().labels(&format!("gateway.envoyproxy.io/owning-gateway-name={gateway}"));
    let all = || Api::<Deployment>::namespaced(cluster.admin(), controller::NAMESPACE);
    wait_until(DEPLOYMENT, &format!("the Deployment of {gateway}"), || {
        let found = block_on(async { all().list(&labelled).await }).map_err(|error| error.to_string())?.items;
        let deployment = found.into_iter().next().ok_or("none")?;
        wanted(&template(&deployment).1)?;
        Ok::<_, String>(deployment)
    })
}

/// The labels and the rest of its pods.
pub(super) fn template(deployment: &Deployment) -> (BTreeMap<String, String>, PodSpec) {
    let PodTemplateSpec { metadata, spec } = deployment.spec.clone().unwrap().template;
    (metadata.unwrap().labels.unwrap_or_default(), spec.unwrap())
}

/// A running pod.
pub(super) struct GatewayPod {
    /// In the order of their start: native sidecars, then Envoy.
    pub(super) containers: Vec<Process>,
    pub(super) files: FileSystem,
    host: Host,
}

impl GatewayPod {
    /// Makes the pod, mounts what it mounts, and starts its containers, each after the start of the one before.
    pub(super) fn start(name: &str, host: Host, cluster: &Cluster, controller: &Controller, of: &Deployment) -> Self {
        let (labels, spec) = template(of);
        let account = Account {
            namespace: controller::NAMESPACE.to_owned(),
            name: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
        };
        block_on(write_pod(cluster, name, &host, labels, &spec));
        let files = FileSystem::at(cluster.folder().join(format!("pod-{name}")));
        let kubelet = Kubelet { cluster, name, account: &account, files: &files };
        let sidecars = spec.init_containers.clone().unwrap_or_default();
        let envoy = spec.containers.iter().find(|container| container.name == "envoy").unwrap();
        for container in sidecars.iter().chain([envoy]) {
            kubelet.mount(container, spec.volumes.as_deref().unwrap_or_default());
        }
        let mut containers = Vec::new();
        for sidecar in &sidecars {
            assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"), "{sidecar:?}");
            let mut command = countersign();
            command.args(sidecar.args.as_deref().unwrap_or_default());
            containers.push(kubelet.run(sidecar, &host, &mut command));
            wait_for(sidecar.startup_probe.as_ref().unwrap(), &host);
        }
        let mut command = peer("envoy");
        for argument in kubelet.expanded(envoy) {
            let is_config = argument.contains("xds_cluster");
            command.arg(if is_config { controller.reached_from(&argument) } else { argument });
        }
        command.args(["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "100"]);
        containers.push(kubelet.run(envoy, &host, &mut command));
        let pod = Self { containers, files, host };
        wait_until(START, &format!("{name} ready"), || http::get(pod.at(19003), "/ready"));
        pod
    }

    /// One of its ports. Those of listeners are 10,000 higher than in the Gateway where that is below 1024.
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        (self.host.address(), port).into()
    }

    /// What Envoy wrote about each request, in JSON.
    pub(super) fn log(&self) -> String {
        self.containers.last().unwrap().output()
    }
}

struct Kubelet<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    account: &'a Account,
    files: &'a FileSystem,
}

impl Kubelet<'_> {
    fn run(&self, container: &Container, host: &Host, command: &mut Command) -> Process {
        let api = self.cluster.url();
        let (address, port) = api.trim_start_matches("https://").rsplit_once(':').unwrap();
        command.env("KUBERNETES_SERVICE_HOST", address).env("KUBERNETES_SERVICE_PORT", port);
        let mut inside = host.command(&self.files.command(command));
        Process::start(&format!("{}-{}", self.name, container.name), self.cluster.folder(), &mut inside)
    }

    /// Its arguments with the variables that stand in them.
    fn expanded(&self, container: &Container) -> Vec<String> {
        let mut arguments = container.args.clone().unwrap_or_default();
        for variable in container.env.iter().flatten() {
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let value = match field.map(|field| field.field_path.as_str()) {
                Some("metadata.name") => self.name,
                Some("metadata.namespace") => &self.account.namespace,
                _ => variable.value.as_deref().unwrap_or_default(),
            };
            for argument in &mut arguments {
                *argument = argument.replace(&format!("$({})", variable.name), value);
            }
        }
        arguments
    }

    fn mount(&self, container: &Container, volumes: &[Volume]) {
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name).expect("a volume for each mount");
            self.fill(&self.files.folder(&mount.mount_path), volume);
        }
    }

    fn fill(&self, folder: &Path, volume: &Volume) {
        if let Some(secret) = &volume.secret {
            let data = controller::secret(self.cluster, secret.secret_name.as_deref().unwrap());
            write_all(folder, data.iter().map(|(name, content)| (name, content.0.as_slice())));
        }
        if let Some(config_map) = &volume.config_map {
            self.write_config_map(folder, &config_map.name, config_map.optional == Some(true));
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(token) = &source.service_account_token {
                let audiences: Vec<&str> = token.audience.as_deref().into_iter().collect();
                let asked = TokenFor { audiences: &audiences, pod: Some(self.name), ..TokenFor::default() };
                fs::write(folder.join(&token.path), block_on(self.cluster.token(self.account, &asked))).unwrap();
            }
            if let Some(config_map) = &source.config_map {
                self.write_config_map(folder, &config_map.name, config_map.optional == Some(true));
            }
            for item in source.downward_api.iter().flat_map(|fields| fields.items.iter().flatten()) {
                assert_eq!(item.field_ref.as_ref().unwrap().field_path, "metadata.namespace");
                fs::write(folder.join(&item.path), &self.account.namespace).unwrap();
            }
        }
    }

    fn write_config_map(&self, folder: &Path, name: &str, optional: bool) {
        let all = || Api::<ConfigMap>::namespaced(self.cluster.admin(), controller::NAMESPACE);
        let found = block_on(async { all().get_opt(name).await }).unwrap();
        assert!(optional || found.is_some(), "no ConfigMap {name}, so the pod would not start");
        let data = found.and_then(|found| found.data).unwrap_or_default();
        write_all(folder, data.iter().map(|(name, content)| (name, content.as_bytes())));
    }
}

/// Waits as long as the kubelet would before it starts the container anew.
fn wait_for(probe: &Probe, host: &Host) {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let get = probe.http_get.as_ref().unwrap();
    let IntOrString::Int(port) = get.port else { panic!("{get:?}") };
    let within = probe.period_seconds.unwrap_or(10) * probe.failure_threshold.unwrap_or(3);
    let address = SocketAddr::from((host.address(), u16::try_from(port).unwrap()));
    wait_until(Duration::from_secs(u64::try_from(within).unwrap()), "the startup probe", || {
        http::get(address, get.path.as_deref().unwrap())
    });
}

async fn write_pod(cluster: &Cluster, name: &str, host: &Host, labels: BTreeMap<String, String>, spec: &PodSpec) {
    let object = json!({ "metadata": { "name": name, "labels": labels }, "spec": spec });
    let pods = cluster.pods(controller::NAMESPACE);
    pods.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let status = json!({ "status": {
        "phase": "Running", "podIP": host.address(), "podIPs": [{ "ip": host.address() }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// What a controller writes into every namespace: by what pods know the API server.
pub(super) async fn write_api_roots(cluster: &Cluster) {
    let kubeconfig = fs::read(cluster.admin_kubeconfig()).unwrap();
    let kubeconfig: serde_json::Value = serde_json::from_slice(&kubeconfig).unwrap();
    let roots = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let roots = String::from_utf8(STANDARD.decode(roots).unwrap()).unwrap();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kube-root-ca.crt", "namespace": controller::NAMESPACE }, "data": { "ca.crt": roots },
    });
    cluster.apply(&object.to_string()).await;
}
