//! Policies where istiod signs: gateways prove themselves to the pair for them alone, by token or by certificate of istiod, and have
//! their identities from istiod as ever.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign::proto::countersign::policy::v1::{WatchRequest, policy_service_client::PolicyServiceClient};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rustix::process::Signal;
use serde_json::json;
use tonic::{
    Code, Request,
    transport::{Channel, Identity},
};

use super::{
    TEAM,
    contexts::{Agent, ENFORCED, answers, backend, begins, enforcement_at, refuses, soon, token_of_pod},
    create, pod_of, policy_at, runtime,
};
use crate::{
    cluster::{Account, TokenFor, block_on},
    istio::{
        istiod::SERVER_NAME,
        objects::{MESH_ROOTS, check_nothing_was_refused},
    },
    istiod_agent::gateway::ID,
    istiod_source::{
        client::{Asked, PAIR, ask, to_pair, to_pair_as},
        stage::Stage,
    },
    mesh::gateway::{Expected, Gateway},
    pair::{NAMESPACE, TAKE_OVER, token_file},
    policy_objects::{install_kinds, objects},
    support::{
        authority::Authority,
        http::{free_port, loopback},
        observe::readiness,
        wait::wait_until,
    },
};

const RIGHTS: [&str; 3] = ["rbac-istiod-policy.yaml", "rbac-policy.yaml", "rbac-policy-objects.yaml"];
const START: Duration = Duration::from_secs(20);
const LEAVING: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(2);
const POLICY: &str = "countersign-backend";

fn flags() -> Vec<String> {
    let pair = loopback(free_port()).to_string();
    let flags = [
        ["--policy", "true"],
        ["--policy-objects", "true"],
        ["--standalone-gateway-identity", ID],
        ["--pair-listen", &pair],
        ["--pair-address", &pair],
    ];
    flags.concat().into_iter().map(str::to_owned).collect()
}

/// Where the replicas keep their operator's sockets.
fn folders(stage: &Stage) -> [PathBuf; 2] {
    ["countersign-0", "countersign-1"].map(|name| stage.cluster.folder().join(name))
}

fn active(stage: &Stage) -> usize {
    wait_until(START, "one of the two active", || {
        let pages = stage.replicas.each_ref().map(readiness);
        pages.iter().position(|page| page.contains("term: ready (active in term ")).ok_or_else(|| pages.concat())
    })
}

/// How often the replicas have had tokens reviewed.
fn reviews(stage: &Stage) -> usize {
    let requests = stage.cluster.requests();
    let replicas = "system:serviceaccount:countersign:countersign";
    requests.iter().filter(|request| request.resource == "tokenreviews" && request.user == replicas).count()
}

async fn watch(channel: Channel, token: Option<&str>) -> Result<(), Code> {
    let mut request = Request::new(WatchRequest::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut stream =
        PolicyServiceClient::new(channel).watch(request).await.map_err(|status| status.code())?.into_inner();
    let first = stream.message().await.map_err(|status| status.code())?;
    assert!(first.is_some());
    Ok(())
}

fn identity(agent: &Agent) -> Identity {
    let [chain, key] = ["cert-chain.pem", "key.pem"].map(|name| fs::read(agent.output.join(name)).unwrap());
    Identity::from_pem(chain, key)
}

/// An agent that has its identity from istiod, and its policies from the pair.
fn agent(stage: &Stage, name: &str, token: &Path, has_policies: bool) -> Agent {
    let addresses = stage.replicas.each_ref().map(|replica| loopback(replica.port).to_string());
    let istiod = loopback(stage.istiod().port).to_string();
    let mut flags = vec!["--trust-domain", "cluster.local", "--ca-identity", PAIR, "--ca-server-name", SERVER_NAME];
    for address in [&istiod].into_iter().chain(&addresses) {
        flags.extend(["--ca-address", address]);
    }
    for address in addresses.iter().filter(|_| has_policies) {
        flags.extend(["--policy-address", address]);
    }
    Agent::start_with(name, stage.cluster.folder(), &stage.roots, token, &flags)
}

/// What gateways of the Gateway API have: identities in the policy, and istiod's roots.
fn objects_are_right(stage: &Stage) -> Result<(), String> {
    objects_have(stage, &stage.roots)
}

fn objects_have(stage: &Stage, expected: &str) -> Result<(), String> {
    block_on(async {
        let client = stage.cluster.admin();
        let policy = objects::get(&client, TEAM, POLICY).await.ok_or("no policy")?;
        let roots = objects::roots(&client, TEAM).await.and_then(|found| found.data).ok_or("no roots")?;
        let lines = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
        let validation = &policy.data["spec"]["validation"];
        let id = format!("spiffe://cluster.local/ns/{TEAM}/sa/v1");
        let is_right = validation["subjectAltNames"] == json!([{ "type": "URI", "uri": id }])
            && lines(&roots["ca.crt"]) == lines(expected);
        if is_right { Ok(()) } else { Err(format!("{validation} {roots:?}")) }
    })
}

fn objects_are_gone(stage: &Stage) -> Result<(), String> {
    block_on(async {
        let client = stage.cluster.admin();
        match (objects::get(&client, TEAM, POLICY).await, objects::roots(&client, TEAM).await) {
            (None, None) => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
}

fn set_label(stage: &Stage, value: Option<&str>) {
    block_on(async { objects::label(&stage.cluster.admin(), value).await });
}

/// Who proves himself how, and what he hears. The pair never reviews a token of a request that it passes on.
fn proofs(stage: &Stage, gateway: &Agent, behind: &Agent, token: &str) {
    let stranger = fs::read_to_string(block_on(token_file(&stage.cluster, "stranger"))).unwrap();
    let account = Account { namespace: "default".to_owned(), name: "gateway".to_owned() };
    let elsewhere = TokenFor { audiences: &["elsewhere"], pod: Some("gateway"), ..TokenFor::default() };
    let elsewhere = block_on(stage.cluster.token(&account, &elsewhere));
    let (chain, key) = Authority::root("forged").svid(ID);
    let forged = Identity::from_pem(chain, key);
    for replica in &stage.replicas {
        let to = |identity: Option<Identity>| to_pair_as(replica.port, &stage.roots, identity);
        block_on(async {
            assert_eq!(watch(to(None), Some(token)).await, Ok(()), "the gateway's token");
            assert_eq!(watch(to(None), Some(&stranger)).await, Err(Code::PermissionDenied), "a stranger's token");
            assert_eq!(watch(to(None), Some(&elsewhere)).await, Err(Code::Unauthenticated), "for somebody else");
            assert_eq!(watch(to(None), None).await, Err(Code::Unauthenticated), "nothing");
            assert_eq!(watch(to(Some(identity(gateway))), None).await, Ok(()), "the gateway's certificate");
            assert_eq!(watch(to(Some(identity(behind))), None).await, Err(Code::PermissionDenied), "another's");
            assert_eq!(watch(to(Some(forged.clone())), None).await, Err(Code::Unauthenticated), "of another root");
            let by_certificate = Asked { authorization: Vec::new(), ..Asked::by("") };
            let refused = ask(&to(Some(identity(gateway))), &by_certificate).await.unwrap_err();
            assert_eq!(refused.0, Code::FailedPrecondition, "a certificate is no proof for what is passed on");
        });
    }
}

#[test]
fn gateways_prove_themselves_to_a_pair_that_passes_on_and_its_policies_outlive_a_replica_and_istiod() {
    let (mut stage, token_path) = before_istiod();
    stage.start_istiod();
    stage.wait_until_ready();
    wait_until(START, "objects with istiod's root", || objects_are_right(&stage));

    let token = fs::read_to_string(&token_path).unwrap();
    let passed = block_on(async { ask(&to_pair(stage.replicas[0].port, &stage.roots), &Asked::by(&token)).await });
    passed.unwrap();
    assert_eq!(reviews(&stage), 0, "what is passed on is istiod's to judge");
    let account = Account { namespace: TEAM.to_owned(), name: "v1".to_owned() };
    block_on(stage.cluster.account(TEAM, "v1"));
    let behind = agent(&stage, "behind", &token_of_pod(&stage.cluster, &account, "one"), false);
    let gateway = agent(&stage, "gateway-agent", &token_path, true);
    wait_until(START, "policies at the agent", || gateway.metric("countersign_policy_services{}").ok_or("none"));
    proofs(&stage, &gateway, &behind, token.trim());
    assert!(reviews(&stage) > 0);

    let (_server, port) = backend(&stage.cluster, &behind);
    let expected = Expected::Context("validation/test-infra/backend");
    let envoy = Gateway::start("gateway", stage.cluster.folder(), &gateway.socket, loopback(port), &expected);
    begins("an answer by whom istiod has certified", &envoy, answers);
    in_force_at(&folders(&stage), ENFORCED);

    a_replica_and_istiod_leave(&mut stage, &envoy);
    check_nothing_was_refused(&stage.cluster);
    for replica in &stage.replicas {
        assert!(!replica.process.errors().contains(token.trim()), "the token stands in the log");
    }
}

/// Policies are known, and nobody knows the mesh's roots. Also a file with the gateway's token.
fn before_istiod() -> (Stage, PathBuf) {
    let stage = Stage::before_istiod(&RIGHTS, flags);
    let token_path = block_on(async {
        install_kinds(&stage.cluster).await;
        objects::make_team(&stage.cluster).await;
        stage.cluster.namespace_named("gw", &[]).await;
        stage.cluster.apply(objects::OTHER_GATEWAY).await;
        token_file(&stage.cluster, "gateway").await
    });
    set_label(&stage, Some("enabled"));
    let id = format!("spiffe://cluster.local/ns/{TEAM}/sa/v1");
    for folder in folders(&stage) {
        wait_until(START, "policies without istiod", || {
            let said = policy_at(&folder, &["explain", &format!("{TEAM}/backend")]);
            if String::from_utf8_lossy(&said.stdout).contains(&id) { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
    wait_until(START, "a plan at the active, which would write", || {
        let said = policy_at(&folders(&stage)[active(&stage)], &["gateways"]);
        if String::from_utf8_lossy(&said.stdout).contains("other") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(objects_are_gone(&stage), Ok(()), "nobody knows roots for them");
    (stage, token_path)
}

/// Either replica goes on alone, and policies need no istiod.
fn a_replica_and_istiod_leave(stage: &mut Stage, envoy: &Gateway) {
    let runtime = runtime();
    let client = runtime.block_on(async { stage.cluster.admin() });
    let active = active(stage);
    stage.replicas[active].process.kill();
    let heir = [folders(stage)[1 - active].clone()];
    set_label(stage, None);
    wait_until(TAKE_OVER + START, "no objects without the label, by the other one", || objects_are_gone(stage));
    soon("an answer without the label, for a while", envoy, answers);
    set_label(stage, Some("enabled"));
    wait_until(SOON, "objects again", || objects_are_right(stage));
    in_force_at(&heir, ENFORCED);

    stage.istiod = None;
    wait_until(START, "istiod away", || match readiness(&stage.replicas[1 - active]) {
        page if page.contains("istiod: not ready") => Ok(()),
        page => Err(page),
    });
    runtime.block_on(create(Api::namespaced(client.clone(), TEAM), &pod_of(TEAM, "two", "backend", "v2", true)));
    block_on(stage.cluster.delete_pod(TEAM, "one"));
    soon("a refusal of who is not behind the Service any more", envoy, refuses);
    in_force_at(&heir, ENFORCED);
    runtime.block_on(create(Api::namespaced(client, TEAM), &pod_of(TEAM, "three", "backend", "v1", true)));
    soon("an answer by a new pod of the account", envoy, answers);

    // as istiod announces another root before it signs by it
    let both = format!("{}{}", stage.roots, Authority::root("mesh-2").certificate);
    let change = json!({ "data": { "root-cert.pem": both } });
    runtime.block_on(async {
        let config_maps = Api::<ConfigMap>::namespaced(stage.cluster.admin(), NAMESPACE);
        config_maps.patch(MESH_ROOTS, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    });
    block_on(stage.cluster.delete_pod(TEAM, "two"));
    wait_until(SOON, "both roots for gateways", || objects_have(stage, &both));
    soon("an answer with both roots", envoy, answers);
    let heir = &mut stage.replicas[1 - active].process;
    heir.signal(Signal::TERM);
    heir.wait_for_success(LEAVING);
}

fn in_force_at(folders: &[PathBuf], expected: &str) {
    for folder in folders {
        wait_until(START, &format!("in force, as {} knows it", folder.display()), || match enforcement_at(folder) {
            said if said.starts_with(expected) => Ok(()),
            said => Err(said),
        });
    }
}
