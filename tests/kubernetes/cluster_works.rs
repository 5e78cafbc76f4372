//! What the other tests rely on.

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    core::v1::{Namespace, Secret},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use crate::cluster::{Cluster, TokenFor, client_of};

#[tokio::test]
async fn the_cluster_checks_tokens_and_refuses_what_rbac_does_not_allow() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("works").await;
    let account = cluster.account(&namespace, "somebody").await;
    let uid = cluster.pod(&account, "somebody-0").await;

    let asked = TokenFor { audiences: &["istio-ca"], pod: Some("somebody-0"), ..TokenFor::default() };
    let token = cluster.token(&account, &asked).await;
    let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec!["istio-ca".to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews = Api::<TokenReview>::all(cluster.admin());
    let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    let user = status.user.unwrap();
    assert_eq!(user.username, Some(format!("system:serviceaccount:{namespace}:somebody")));
    assert_eq!(user.extra.unwrap()["authentication.kubernetes.io/pod-uid"], [uid]);

    cluster.secret(&namespace, "private", &[("key", b"value")]).await;
    let own = client_of(&cluster.kubeconfig(&account).await);
    let refused = Api::<Secret>::namespaced(own, &namespace).list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    let requests = cluster.requests();
    let denied: Vec<_> = requests.iter().filter(|request| request.denied && request.namespace == namespace).collect();
    assert!(matches!(denied[..], [one] if one.verb == "list" && one.resource == "secrets"), "{denied:?}");

    cluster.delete_namespace(&namespace).await;
    assert_eq!(Api::<Namespace>::all(cluster.admin()).get_opt(&namespace).await.unwrap(), None);
}

#[test]
fn the_api_server_stands_still_dies_and_comes_back_with_what_it_held() {
    let mut cluster = Cluster::start();
    let name = crate::cluster::block_on(cluster.namespace("kept"));
    cluster.pause();
    cluster.resume();
    cluster.kill();
    cluster.restart();
    cluster.wait_until_ready();
    let kept = crate::cluster::block_on(async { Api::<Namespace>::all(cluster.admin()).get(&name).await });
    assert_eq!(kept.unwrap().metadata.name, Some(name));
}
