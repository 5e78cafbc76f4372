//! Waiting until rights that were just given hold: the API server's authorizer hears of them by watches of its own.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Cluster;

const LIMIT: Duration = Duration::from_secs(20);
static MARKS: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// Each of the four kinds is watched in order: when a mark that was made last is heard of, so is everything before.
    pub(super) async fn wait_for_rights(&self) {
        let mark = format!("mark-{}", MARKS.fetch_add(1, Ordering::Relaxed));
        self.apply_objects(&marks(&mark)).await;
        for prefix in ["", "Cluster"] {
            self.wait_for_right(&mark, &resource(prefix)).await;
        }
    }

    async fn wait_for_right(&self, user: &str, resource: &str) {
        let attributes = json!({ "namespace": "default", "verb": "get", "group": "marks.test", "resource": resource });
        let review: SubjectAccessReview =
            serde_json::from_value(json!({ "spec": { "user": user, "resourceAttributes": attributes } })).unwrap();
        let reviews: Api<SubjectAccessReview> = Api::all(self.admin());
        let begin = Instant::now();
        loop {
            let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
            if status.allowed {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "the rights don't hold after {LIMIT:?}: {status:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn marks(name: &str) -> String {
    let kind = |prefix: &str| {
        let (api, resource) = ("apiVersion: rbac.authorization.k8s.io/v1", resource(prefix));
        format!(
            "{api}\nkind: {prefix}Role\nmetadata: {{ name: {name} }}\n\
             rules: [{{ apiGroups: [marks.test], resources: [{resource}], verbs: [get] }}]\n---\n\
             {api}\nkind: {prefix}RoleBinding\nmetadata: {{ name: {name} }}\n\
             roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: {prefix}Role, name: {name} }}\n\
             subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: User, name: {name} }}]\n---\n"
        )
    };
    kind("") + &kind("Cluster")
}

fn resource(prefix: &str) -> String {
    format!("{}marks", prefix.to_lowercase())
}
