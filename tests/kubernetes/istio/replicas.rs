//! A pair on loopback, with the shipped rights, and a Service before it.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    pair::{NAMESPACE, TAKE_OVER},
    support::{
        countersign::Serve,
        http::{free_port, loopback},
        observe::readiness,
        service::service,
        wait::wait_until,
    },
};

const START: Duration = Duration::from_secs(15);
const LEAVING: Duration = Duration::from_secs(15);

/// Both replicas.
pub(crate) struct Replicas {
    pub(crate) serves: [Serve; 2],
}

impl Replicas {
    /// Starts both, each with flags of its own, and waits until they are ready.
    pub(crate) fn start(cluster: &Cluster, account: &Account, flags: [&[&str]; 2]) -> Self {
        let replicas = Self::spawn("countersign", cluster, account, flags);
        replicas.serves.iter().for_each(Serve::wait_until_ready);
        replicas
    }

    /// Starts both in pods whose names begin with `prefix`, and does not wait.
    pub(crate) fn spawn(prefix: &str, cluster: &Cluster, account: &Account, flags: [&[&str]; 2]) -> Self {
        let start = |number: usize| {
            let name = format!("{prefix}-{number}");
            let (uid, kubeconfig) = block_on(async {
                let uid = cluster.pod(account, &name).await;
                let asked = TokenFor { pod: Some(&name), ..TokenFor::default() };
                (uid, cluster.kubeconfig_with(account, &asked).await)
            });
            let pair = loopback(free_port()).to_string();
            let mut all = vec!["--state", "kubernetes", "--namespace", NAMESPACE, "--replica-uid", &uid];
            all.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
            // those that pass on to istiod don't speak to each other
            if !flags[number].contains(&"--source") {
                all.extend(["--pair-listen", &pair, "--pair-address", &pair]);
            }
            all.extend(flags[number]);
            let data = cluster.folder().join(format!("{name}-data"));
            Serve::spawn(&name, cluster.folder(), &data, free_port(), &all)
        };
        Self { serves: [start(0), start(1)] }
    }

    /// Which one is active.
    pub(crate) fn active(&self) -> usize {
        wait_until(START, "one of the two active", || {
            let pages = self.serves.each_ref().map(readiness);
            pages.iter().position(|page| is_active(page)).ok_or_else(|| pages.concat())
        })
    }

    /// SIGTERM for both, and waits for their end in good order.
    pub(crate) fn stop(&mut self) {
        self.serves.iter().for_each(|serve| serve.process.signal(Signal::TERM));
        self.serves.iter_mut().for_each(|serve| serve.process.wait_for_success(LEAVING));
    }

    /// `kill -9` of the active, and waits until the other one is it.
    pub(crate) fn kill_the_active(&mut self) {
        let active = self.active();
        self.serves[active].process.kill();
        let heir = &self.serves[1 - active];
        wait_until(TAKE_OVER * 2, "the other one active", || match readiness(heir) {
            page if is_active(&page) => Ok(()),
            page => Err(page),
        });
    }

    /// An address behind which both are.
    pub(crate) fn service(&self) -> String {
        service(self.serves.each_ref().map(|serve| loopback(serve.port)))
    }
}

fn is_active(readiness: &str) -> bool {
    readiness.contains("signing: ready (active in term ")
}
