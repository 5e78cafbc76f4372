//! Ten replicas at once on an empty cluster.

use std::{collections::BTreeSet, time::Duration};

use countersign::{domain::x509::PrivateKey, service::ports::CertificateAuthority as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::{
    cluster::{Cluster, block_on},
    network::in_own_network,
    pair::{
        NAMESPACE, TRUST_DOMAIN, install,
        load::client,
        replica::{Planned, Replica, stop_all},
        roots, token_file,
    },
    support::{issuance::Issued, wait::wait_until},
};

const REPLICAS: usize = 10;
const QUIET: Duration = Duration::from_secs(30);

#[test]
fn ten_replicas_on_an_empty_cluster_make_one_root_in_one_term() {
    in_own_network("many::ten_replicas_on_an_empty_cluster_make_one_root_in_one_term", |mut network| {
        let api = network.host("api");
        let cluster = Cluster::start_at(&api.place(), &[]);
        let account = block_on(install(&cluster));
        let planned: Vec<Planned> = (0..REPLICAS)
            .map(|number| {
                let name = format!("replica-{number}");
                let host = network.host(&name);
                Planned::new(&name, &cluster, &account, host, &[])
            })
            .collect();
        let mut replicas: Vec<Replica> = planned.into_iter().map(Planned::start).collect();
        replicas.iter().for_each(Replica::wait_until_ready);
        wait_until(QUIET, "one of them active", || {
            let roles: Vec<_> = replicas.iter().map(Replica::role).collect();
            let active: Vec<u64> = roles.iter().filter_map(|role| role.clone().ok()?).collect();
            if active == [1] { Ok(()) } else { Err(format!("{roles:?}")) }
        });

        let (token, roots_file) = (block_on(token_file(&cluster, "caller")), cluster.folder().join("roots.pem"));
        let published = roots(&cluster);
        std::fs::write(&roots_file, &published).unwrap();
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/caller").parse().unwrap();
        let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
        let answers: BTreeSet<String> = replicas
            .iter()
            .map(|replica| {
                let client = client(&[replica.address()], &token, &roots_file);
                block_on(client.sign(&csr, 600)).unwrap().roots_pem
            })
            .collect();
        assert_eq!(answers, BTreeSet::from([published]), "more than one root");

        let lease = block_on(async { Api::<Lease>::namespaced(cluster.admin(), NAMESPACE).get("countersign").await });
        assert_eq!(lease.unwrap().metadata.annotations.unwrap()["countersign.io/term"], "1");
        let requests = cluster.requests();
        for object in ["countersign-authority", "countersign-trust"] {
            let made = requests.iter().filter(|request| {
                let created = request.resource == "secrets" && request.verb == "create" && request.code == 201;
                created && request.name == object
            });
            assert_eq!(made.count(), 1, "{object} was made more than once");
        }
        stop_all(&mut replicas);
        let data: Vec<_> = replicas.iter().map(Replica::data).collect();
        let issued = Issued::list_all(&data);
        let terms = issued.check_terms();
        assert_eq!(terms.keys().collect::<Vec<_>>(), [&1], "more than one term: {terms:?}");
    });
}
