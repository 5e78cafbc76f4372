use std::os::unix::net;

use futures_util::StreamExt as _;
use tempfile::tempdir;
use tokio::{spawn, task::JoinHandle};

use super::*;

async fn bind(path: &Path) -> Result<WorkloadListener, BindError> {
    WorkloadListener::bind(path, SocketAccess::default()).await
}

#[tokio::test]
async fn creates_its_directory_sets_the_mode_and_goes_away() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a/b/socket");
    let listener = bind(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o755);
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_path_over_the_kernels_limit_is_refused_by_name() {
    let path = PathBuf::from(format!("/tmp/{}", "s".repeat(103)));
    let text = bind(&path).await.unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("108") && text.contains("107"), "{text}");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves the file behind, as a killed process does");
    let first = bind(&path).await.unwrap();
    assert!(matches!(bind(&path).await, Err(BindError::InUse(_))));
    assert!(path.exists());
    drop(first);
    bind(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_the_file_finds_somebody_listening() {
    let folder = tempdir().unwrap();
    let left_behind = folder.path().join(NEW);
    drop(net::UnixListener::bind(&left_behind).unwrap());
    for round in 0..300 {
        let path = folder.path().join(round.to_string());
        let seen = path.clone();
        let looking = std::thread::spawn(move || {
            loop {
                match net::UnixStream::connect(&seen) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => std::hint::spin_loop(),
                    connected => break connected.map(drop),
                }
            }
        });
        let listener = bind(&path).await.unwrap();
        looking.join().unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        drop(listener);
    }
    assert!(!left_behind.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_find_a_dead_socket_one_gets_it() {
    let folder = tempdir().unwrap();
    for round in 0..100 {
        let path = folder.path().join(round.to_string());
        drop(net::UnixListener::bind(&path).unwrap());
        let rival = |path: PathBuf| async move { bind(&path).await };
        let rivals: Vec<_> = (0..8).map(|_| spawn(rival(path.clone()))).collect();
        let mut winners = Vec::new();
        for rival in rivals {
            match rival.await.unwrap() {
                Ok(listener) => winners.push(listener),
                Err(error) => assert!(matches!(error, BindError::InUse(_)), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        UnixStream::connect(&path).await.expect("the winner's file is still there");
    }
}

#[tokio::test]
async fn what_is_not_a_socket_is_not_touched() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    fs::create_dir(&path).unwrap();
    assert!(matches!(bind(&path).await, Err(BindError::NotASocket(_))));
    assert!(matches!(wait_until_free(&path).await, Err(BindError::NotASocket(_))));
    assert!(path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_stays_locked_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let held = lock(folder.path()).await.unwrap();
    let text = bind(&path).await.unwrap_err().to_string();
    assert!(text.contains(folder.path().to_str().unwrap()) && text.contains("locked"), "{text}");
    drop(held);
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn a_successors_file_is_left_alone() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let first = bind(&path).await.unwrap();
    fs::rename(&path, folder.path().join("old")).unwrap();
    let _second = bind(&path).await.unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn callers_outside_the_lists_are_cut_off() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let own = rustix::process::geteuid().as_raw();
    let access = SocketAccess { uids: vec![own + 1], ..SocketAccess::default() };
    let listener = WorkloadListener::bind(&path, access).await.unwrap();
    let accepting = spawn(async move { std::pin::pin!(listener.incoming()).next().await });
    let mut caller = UnixStream::connect(&path).await.unwrap();
    assert_eq!(caller.read(&mut [0; 1]).await.unwrap(), 0, "the connection is closed");
    assert!(!accepting.is_finished());
    accepting.abort();

    let access = SocketAccess { mode: 0o600, uids: vec![own], gids: vec![rustix::process::getegid().as_raw()] };
    assert!(access.permits(own, rustix::process::getegid().as_raw()));
    assert!(!access.permits(own, u32::MAX) && !access.permits(own + 1, rustix::process::getegid().as_raw()));
}

/// A standby, and the one connection that it makes to the owner.
async fn standby(path: &Path, owner: &WorkloadListener) -> (JoinHandle<Result<(), BindError>>, UnixStream) {
    let waiting_at = path.to_owned();
    let standby = spawn(async move { wait_until_free(&waiting_at).await });
    let connection = owner.accept().await;
    let another = timeout(PROBE_INTERVAL + FILE_INTERVAL * 2, owner.accept()).await;
    assert!(another.is_err() && !standby.is_finished(), "it waits, and asks once");
    (standby, connection)
}

async fn is_free(standby: JoinHandle<Result<(), BindError>>) {
    timeout(Duration::from_secs(10), standby).await.expect("the path is free").unwrap().unwrap();
}

#[tokio::test]
async fn a_standby_waits_for_the_owner_to_die() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    wait_until_free(&path).await.unwrap();
    let owner = bind(&path).await.unwrap();
    let (standby, connection) = standby(&path, &owner).await;
    fs::rename(&path, folder.path().join("corpse")).unwrap();
    drop(owner);
    fs::rename(folder.path().join("corpse"), &path).unwrap();
    drop(connection);
    is_free(standby).await;
}

#[tokio::test]
async fn a_standby_does_not_wait_for_what_the_owner_still_serves() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let owner = bind(&path).await.unwrap();
    let (standby, _connection) = standby(&path, &owner).await;
    drop(owner);
    is_free(standby).await;
}

#[tokio::test]
async fn a_standby_does_not_hold_up_an_owner_that_says_it_leaves() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let owner = bind(&path).await.unwrap();
    let (standby, mut connection) = standby(&path, &owner).await;
    connection.write_all(b"GOAWAY").await.unwrap();
    let mut received = Vec::new();
    let end = timeout(Duration::from_secs(10), connection.read_to_end(&mut received)).await;
    end.expect("the standby hangs up").unwrap();
    assert_eq!(received, GREETING);
    drop(owner);
    is_free(standby).await;
}

#[tokio::test]
async fn an_owner_that_hangs_up_and_lives_is_waited_for() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let owner = bind(&path).await.unwrap();
    let (standby, connection) = standby(&path, &owner).await;
    drop(connection);
    let _again = timeout(Duration::from_secs(10), owner.accept()).await.expect("it asks again");
    assert!(!standby.is_finished());
    drop(owner);
    is_free(standby).await;
}
