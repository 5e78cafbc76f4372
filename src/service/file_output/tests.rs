use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::*;
use crate::{
    domain::{
        authority::{
            SigningAuthority,
            testing::{NOW, authority},
        },
        clock::BootInstant,
    },
    service::readiness::Readiness,
};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(1)
    }
}

/// A directory that can be told to fail.
#[derive(Default)]
struct Directory {
    key: Mutex<Option<String>>,
    is_full: Mutex<bool>,
    writes: AtomicUsize,
}

fn key(files: &FileSet) -> String {
    files.iter().find(|file| file.name == "tls.key").unwrap().content.to_string()
}

impl FileStore for Directory {
    fn holds(&self, files: &FileSet) -> Result<bool, FileError> {
        Ok(self.key.lock().unwrap().as_ref() == Some(&key(files)))
    }

    fn replace(&self, files: &FileSet) -> Result<(), FileError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if *self.is_full.lock().unwrap() {
            return Err(FileError("d: no space left".into()));
        }
        *self.key.lock().unwrap() = Some(key(files));
        Ok(())
    }

    fn tidy(&self) -> Result<(), FileError> {
        Ok(())
    }
}

#[derive(Default)]
struct Bell(AtomicUsize, Mutex<Option<NoticeError>>);

impl Notice for Bell {
    fn give(&self) -> BoxFuture<'_, Result<(), NoticeError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let failure = self.1.lock().unwrap().clone();
        Box::pin(async move { failure.map_or(Ok(()), Err) })
    }
}

/// A running output, and what it works with.
struct Running {
    authority: SigningAuthority,
    directory: Arc<Directory>,
    bell: Arc<Bell>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    published: watch::Sender<Option<Arc<WorkloadIdentity>>>,
    revision: u64,
}

impl Running {
    fn start() -> Self {
        let (published, identity) = watch::channel(None);
        let running = Self {
            authority: authority(),
            directory: Arc::default(),
            bell: Arc::default(),
            metrics: Arc::new(Metrics::of_agent()),
            readiness: Readiness::default(),
            published,
            revision: 0,
        };
        let output = FileOutput {
            store: Arc::clone(&running.directory) as _,
            notice: Some(Arc::clone(&running.bell) as _),
            clock: Arc::new(Still),
            metrics: Arc::clone(&running.metrics),
        };
        let latch = running.readiness.latch("output files", "");
        tokio::spawn(async move { match output.run(identity, latch).await {} });
        running
    }

    /// Publishes a new SVID: its key.
    fn publish(&mut self) -> String {
        let svid = Arc::new(file_set::tests::svid(&self.authority));
        let key = svid.key().to_pem().to_string();
        self.send(Some(svid));
        key
    }

    fn send(&mut self, svid: Option<Arc<crate::domain::x509::X509Svid>>) {
        self.revision += 1;
        let id = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
        let bundle = Arc::new(self.authority.bundle().clone());
        self.published.send_replace(Some(Arc::new(WorkloadIdentity { id, svid, bundle, revision: self.revision })));
    }

    /// Waits until readiness says this. Time is paused, so it costs none.
    async fn says(&self, text: &str) {
        let begin = Instant::now();
        loop {
            let said = self.readiness.report().to_string();
            if said.contains(text) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "{text} is not in {said}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn holds(&self, key: &str) -> bool {
        self.directory.key.lock().unwrap().as_deref() == Some(key)
    }

    fn rung(&self) -> usize {
        self.bell.0.load(Ordering::Relaxed)
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.encode().contains(line)
    }
}

#[tokio::test(start_paused = true)]
async fn is_not_ready_before_the_first_set_and_writes_and_tells_each_once() {
    let mut running = Running::start();
    running.says("not ready (none yet)").await;
    let first = running.publish();
    running.says("output files: ready (serial ").await;
    assert!(running.holds(&first) && running.rung() == 1);
    sleep(VERIFY_EVERY * 10).await;
    assert_eq!(
        (running.directory.writes.load(Ordering::Relaxed), running.rung()),
        (1, 1),
        "what is right is left alone"
    );
    let second = running.publish();
    sleep(Duration::from_secs(1)).await;
    assert!(running.holds(&second) && running.rung() == 2);
    assert!(running.counts("countersign_output_writes_total{output=\"files\",outcome=\"written\"} 2"));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_put_right_and_told() {
    let mut running = Running::start();
    let key = running.publish();
    running.says(": ready").await;
    *running.directory.key.lock().unwrap() = Some("edited".into());
    sleep(VERIFY_EVERY + Duration::from_secs(1)).await;
    assert!(running.holds(&key) && running.rung() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_leaves_the_last_set_and_readiness_and_is_overcome_by_itself() {
    let mut running = Running::start();
    let first = running.publish();
    running.says(": ready").await;
    *running.directory.is_full.lock().unwrap() = true;
    let second = running.publish();
    running.says("not written: d: no space left").await;
    assert!(running.readiness.report().is_ready() && running.holds(&first));
    sleep(Duration::from_secs(600)).await;
    let attempts = running.directory.writes.load(Ordering::Relaxed);
    assert!((50..80).contains(&attempts), "{attempts} in ten minutes");
    assert!(running.counts("output=\"files\",outcome=\"failed\""));
    *running.directory.is_full.lock().unwrap() = false;
    sleep(LONGEST_PAUSE + Duration::from_secs(1)).await;
    assert!(running.holds(&second) && running.rung() == 2);
    assert!(!running.readiness.report().to_string().contains("not written"));
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_expired_stays_in_its_files_and_the_next_one_replaces_it() {
    let mut running = Running::start();
    let key = running.publish();
    running.says(": ready").await;
    running.send(None);
    running.says("the SVID has expired").await;
    sleep(VERIFY_EVERY * 3).await;
    assert!(running.holds(&key) && running.rung() == 1);
    let next = running.publish();
    sleep(Duration::from_secs(1)).await;
    assert!(running.holds(&next));
    assert!(!running.readiness.report().to_string().contains("expired"));
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_fails_is_counted_and_given_again_with_the_next_set() {
    let mut running = Running::start();
    *running.bell.1.lock().unwrap() = Some(NoticeError("nginx: exit status: 1".into()));
    running.publish();
    running.says("nobody was told: nginx: exit status: 1").await;
    assert!(running.readiness.report().is_ready());
    sleep(VERIFY_EVERY * 3).await;
    assert_eq!(running.rung(), 1);
    *running.bell.1.lock().unwrap() = None;
    running.publish();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.rung(), 2);
    assert!(!running.readiness.report().to_string().contains("nobody"));
    assert!(running.counts("countersign_output_notices_total{outcome=\"failed\"} 1"));
}
