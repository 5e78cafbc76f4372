//! Two replicas, killed and stopped, and operators who deny.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use rustix::process::geteuid;

use crate::{
    client::{Client, assert_refused, id},
    command::{denied, done, issuance, issuance_by_active},
    pair::Pair,
    support::{
        countersign::{Serve, countersign},
        process::Process,
        wait::wait_until,
    },
};

const ACCOUNT: &str = "default/client";
const REASON: &str = "laptop stolen";

#[test]
fn a_denied_identity_gets_no_certificate_on_any_proof_until_it_is_allowed_again() {
    let pair = Pair::start();
    let (data, ports, id) = (pair.data(), [pair.port(0), pair.port(1)], id(ACCOUNT));
    let (client, other) = (Client::new(&data, ACCOUNT), Client::new(&data, "default/other"));
    let svid = client.by_token(ports[0]).unwrap();

    assert_eq!(done(&data, &["deny", "--id", &id, "--reason", REASON]), format!("denied {id}\n"));
    for port in ports {
        assert_refused(client.by_token(port));
        assert_refused(client.by_certificate(port, &svid));
        assert_refused(client.by_both(port, &svid));
        other.by_token(port).unwrap();
    }
    let list = denied(&data);
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((&list[0]["spiffeId"], &list[0]["reason"]), (&id.as_str().into(), &REASON.into()));
    let uid = geteuid().as_raw();
    assert_eq!((&list[0]["serial"], &list[0]["actorUid"]), (&serde_json::Value::Null, &uid.into()));

    let again = issuance(&data, &["deny", "--id", &id, "--reason", "and sold"]);
    assert!(again.code == Some(0) && again.output.contains(REASON), "{again:?}");
    let allowed = done(&data, &["allow", "--id", &id, "--reason", "found"]);
    assert!(allowed.starts_with(&format!("allowed {id}, which was denied since ")), "{allowed}");
    for port in ports {
        client.by_token(port).unwrap();
        client.by_certificate(port, &svid).unwrap();
    }
    assert_eq!(denied(&data), Vec::<serde_json::Value>::new());
    let twice = issuance(&data, &["allow", "--id", &id]);
    assert!(twice.code == Some(1) && twice.errors.contains("is not denied"), "{twice:?}");

    let log = pair.replicas[pair.active().0].process.errors();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    assert_eq!(audit.len(), 3, "{audit:#?}");
    for (line, parts) in audit.iter().zip([
        ["issuance deny", REASON, r#"old="not denied""#],
        ["issuance deny", "and sold", r#"old="denied since"#],
        ["issuance allow", "found", r#"new="not denied""#],
    ]) {
        let actor = format!("actor_uid={uid}");
        let all = [&parts[..], &[&id, &actor]].concat();
        assert!(all.iter().all(|part| line.contains(part)), "{all:?} in {line}");
    }
    assert!(log.contains(&format!("{id} is denied: {REASON}")), "the reason of a refusal is not in the log:\n{log}");
}

#[test]
fn a_denied_serial_proves_nothing_and_the_token_still_does() {
    let pair = Pair::start();
    let (data, ports) = (pair.data(), [pair.port(0), pair.port(1)]);
    let client = Client::new(&data, ACCOUNT);
    let svid = client.by_token(ports[0]).unwrap();
    let renewed = client.by_certificate(ports[1], &svid).unwrap();

    // as openssl prints it
    let serial = svid.serial.to_uppercase();
    assert_eq!(
        done(&data, &["deny", "--serial", &serial, "--reason", REASON]),
        format!("denied serial {}\n", svid.serial)
    );
    let (active, _) = pair.active();
    assert_refused(client.by_certificate(ports[1 - active], &svid));
    let log = pair.replicas[active].process.errors();
    let refusal = log.lines().find(|line| line.contains(&format!("serial {} is denied: {REASON}", svid.serial)));
    assert!(refusal.is_some_and(|line| line.contains(&format!("forwarded_by=\"{}\"", pair.name(1 - active)))), "{log}");
    for port in ports {
        assert_refused(client.by_certificate(port, &svid));
        client.by_both(port, &svid).unwrap();
        client.by_token(port).unwrap();
        client.by_certificate(port, &renewed).unwrap();
    }
    done(&data, &["allow", "--serial", &serial]);
    for port in ports {
        client.by_certificate(port, &svid).unwrap();
    }
}

#[test]
fn what_a_command_has_done_survives_the_death_of_the_active_and_of_both() {
    let mut pair = Pair::start();
    let (data, id) = (pair.data(), id(ACCOUNT));
    let client = Client::new(&data, ACCOUNT);
    let serial = client.by_token(pair.port(0)).unwrap().serial;
    done(&data, &["deny", "--serial", &serial, "--reason", REASON]);
    for round in 0..4 {
        let deny = round % 2 == 0;
        let (active, _) = pair.active();
        if deny {
            done(&data, &["deny", "--id", &id, "--reason", REASON]);
        } else {
            done(&data, &["allow", "--id", &id]);
        }
        pair.replicas[active].process.kill();
        // held until the standby has taken over
        let answer = client.by_token(pair.port(1 - active));
        if deny {
            assert_refused(answer)
        } else {
            assert!(answer.is_ok(), "round {round}: {:?}", answer.err())
        }
        pair.restart(active);
    }
    done(&data, &["deny", "--id", &id, "--reason", REASON]);
    pair.replicas.iter_mut().for_each(|replica| replica.process.kill());
    pair.restart(0);
    pair.wait_until_active(0);
    assert_refused(client.by_token(pair.port(0)));
    let list = done(&data, &["denied"]);
    assert!(list.contains(&id) && list.contains(&serial), "{list}");
}

#[test]
fn without_an_active_nothing_is_done_and_the_command_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let deny = ["deny", "--id", &id(ACCOUNT), "--reason", REASON];
    let none = issuance(&data, &deny);
    assert!(none.code == Some(1) && none.errors.contains("is no data directory of a pair"), "{none:?}");

    let mut serve = Serve::start("serve-0", folder.path(), &data, &[]);
    let foreign = ["deny", "--id", "spiffe://other.example/ns/default/sa/client", "--reason", REASON];
    let foreign = issuance_by_active(&data, &foreign);
    assert!(foreign.code == Some(1) && foreign.errors.contains("is never issued here"), "{foreign:?}");
    serve.process.kill();
    for args in [&deny[..], &["allow", "--id", &id(ACCOUNT)], &["denied"]] {
        let ended = issuance(&data, args);
        let said = format!("no replica of {} is active", data.display());
        assert!(ended.code == Some(1) && ended.errors.contains(&said), "{args:?}: {ended:?}");
    }
    let serve = Serve::start("serve-1", folder.path(), &data, &[]);
    assert_eq!(done(&data, &["denied", "-o", "json"]), "[]\n");

    // stopped, it may still do what it was asked: the command can't know
    serve.process.pause();
    let mut command = countersign();
    command.args(["issuance", "denied", "--data-dir"]).arg(&data);
    let mut asked = Process::start("denied", folder.path(), &mut command);
    assert_eq!(asked.wait_for_end(Duration::from_secs(20)).code(), Some(1));
    assert!(asked.errors().contains("does not answer within 5s"), "{}", asked.errors());
}

#[test]
fn the_operators_socket_is_for_its_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _serve = Serve::start("serve", folder.path(), &data, &[]);
    let mode = wait_until(Duration::from_secs(5), "admin.sock", || {
        fs::metadata(data.join("admin.sock")).map(|metadata| metadata.permissions().mode())
    });
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}
