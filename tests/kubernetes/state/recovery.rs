//! The operator's commands, as somebody runs them: save, look, put back, give up, take over.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use countersign::domain::x509::Certificate;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{
    AUTHORITY, BTreeMap, Place, TRUST, content_of,
    damage::{DAMAGES, Story, hurt},
    set_annotation,
};
use crate::{cluster::Cluster, support::countersign::countersign};

/// The commands in one namespace, by an administrator.
struct Operator {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Operator {
    fn of(place: &Place<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("passphrase"), "correct horse\nnot this\n").unwrap();
        Self { folder, kubeconfig: place.cluster.admin_kubeconfig(), namespace: place.namespace.clone() }
    }

    fn run(&self, command: &[&str], flags: &[&str]) -> Output {
        let mut run: Command = countersign();
        run.args(command).args(["--state", "kubernetes", "--namespace", &self.namespace]);
        run.arg("--kubeconfig").arg(&self.kubeconfig).args(flags).current_dir(self.folder.path());
        tokio::task::block_in_place(|| run.output()).unwrap()
    }

    /// What a command that must succeed printed.
    fn done(&self, command: &[&str], flags: &[&str]) -> String {
        let output = self.run(command, flags);
        assert!(output.status.success(), "{command:?} {flags:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must not succeed printed.
    fn refused(&self, command: &[&str], flags: &[&str]) -> String {
        let output = self.run(command, flags);
        assert_eq!(output.status.code(), Some(1), "{command:?} {flags:?}: {}", text(&output));
        text(&output)
    }

    fn export(&self, file: &str) -> String {
        self.done(&["authority", "export"], &["--out", file, "--passphrase-file", "passphrase"])
    }

    fn import(&self, file: &str, flags: &[&str]) -> String {
        self.done(&["authority", "import", file, "--passphrase-file", "passphrase"], flags)
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whatever was done to the Secrets, with the Lease still there or not: nobody signs with anything else, and the backup puts
/// the same root back under a higher term.
#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_repaired_by_a_backup_to_the_same_root() {
    let foreign = Story::tell(Cluster::shared()).await.newest;
    for damage in DAMAGES {
        let story = Story::tell(Cluster::shared()).await;
        let operator = Operator::of(&story.place);
        let said = operator.export("backup");
        assert!(said.contains(&story.root), "{said}");
        hurt(&story, damage.name, &foreign).await;
        if !damage.without_lease.is_empty() {
            // there is no Lease object here: what the Secrets say of each other
            let said = operator.refused(&["recover"], &[]);
            let expected = damage.without_lease.replace("ROOT", &story.root);
            assert!(said.contains("state: damaged: ") && said.contains(&expected), "{}: {said}", damage.name);
            let refused =
                operator.refused(&["authority", "export"], &["--out", "damaged", "--passphrase-file", "passphrase"]);
            assert!(refused.contains("countersign recover --state kubernetes"), "{refused}");
        }
        let other_root_or_usable = damage.name.contains("foreign") || damage.name == "both older restored";
        let flags: &[&str] = if other_root_or_usable { &["--replace"] } else { &[] };
        let said = operator.import("backup", flags);
        assert!(said.contains(&format!("imported root {} under term", story.root)), "{}: {said}", damage.name);
        assert!(operator.done(&["recover"], &[]).ends_with("state: sound\n"), "{}", damage.name);

        // both who know what was acknowledged before and who know nothing take over from it
        for lease in [story.active.lease(), BTreeMap::new()] {
            let next = story.place.replica(&lease);
            let highest: u64 = next.claim(1).unwrap_err().strip_prefix("refused: ").unwrap().parse().unwrap();
            assert!(highest > 4, "{}: the import bears no higher term", damage.name);
            assert_eq!(next.claim(highest + 1).unwrap(), story.root, "{}", damage.name);
        }
        let kept = story.place.found().await.into_keys().filter(|name| name.contains("-old-")).count();
        let had_something_else =
            !["authority deleted", "trust deleted", "both deleted", "version edited"].contains(&damage.name);
        assert!(
            kept > 0 || !had_something_else || damage.name == "annotations deleted",
            "{}: nothing kept",
            damage.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_state_and_another_root_give_way_only_to_replace() {
    let (story, other) = (Story::tell(Cluster::shared()).await, Story::tell(Cluster::shared()).await);
    let (operator, of_other) = (Operator::of(&story.place), Operator::of(&other.place));
    operator.export("backup");
    of_other.export("backup");
    let before = story.place.found().await;
    let foreign = of_other.folder.path().join("backup").display().to_string();

    let refused = operator.refused(&["authority", "import", "backup", "--passphrase-file", "passphrase"], &[]);
    assert!(refused.contains("can be used as it is") && refused.contains("--replace"), "{refused}");
    let refused = operator.refused(&["authority", "import", &foreign, "--passphrase-file", "passphrase"], &[]);
    assert!(refused.contains(&format!("is of root {}", story.root)) && refused.contains(&other.root), "{refused}");
    fs::write(operator.folder.path().join("wrong"), "incorrect horse").unwrap();
    let refused = operator.refused(&["authority", "import", "backup", "--passphrase-file", "wrong"], &["--replace"]);
    assert!(refused.contains("the passphrase is wrong"), "{refused}");
    assert_eq!(story.place.found().await, before);

    let said = operator.import(&foreign, &["--replace"]);
    assert!(said.contains("kept what was there as Secret countersign-authority-old-"), "{said}");
    let next = story.place.replica(&story.active.lease());
    assert_eq!(next.claim(6).unwrap(), other.root, "who knew of the old root goes over to the new one");
    // and back again
    operator.import("backup", &["--replace"]);
    assert_eq!(story.place.replica(&next.lease()).claim(8).unwrap(), story.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_given_up_for_a_new_root_only_by_command_and_can_be_put_back() {
    let story = Story::tell(Cluster::shared()).await;
    let operator = Operator::of(&story.place);
    operator.export("backup");
    story.place.edit(AUTHORITY, |secret| set_annotation(secret, "version", "7")).await;
    assert!(story.place.replica(&BTreeMap::new()).claim(5).unwrap_err().contains("its checksum is wrong"));
    // a Lease that others still read, and that names the root that is given up
    let mut lease = Lease::default();
    lease.metadata.name = Some("countersign".into());
    lease.metadata.annotations = Some(story.active.lease());
    lease.metadata.annotations.as_mut().unwrap().insert("countersign.io/term".into(), "8".into());
    let leases = Api::<Lease>::namespaced(story.place.cluster.admin(), &story.place.namespace);
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let said = operator.refused(&["recover"], &[]);
    assert!(said.contains(&format!("term 8, names root {}", story.root)), "{said}");
    let said = operator.done(&["recover", "--new-root"], &[]);
    assert!(said.contains("countersign-authority-old-") && said.contains("countersign-trust-old-"), "{said}");
    let kept = story.place.found().await;
    let kept = kept.iter().find(|(name, _)| name.starts_with("countersign-authority-old-")).unwrap();
    assert_eq!(content_of(kept.1), content_of(&story.newest[AUTHORITY]));
    assert!(operator.done(&["recover"], &[]).ends_with("state: sound\n"));

    let next = story.place.replica(&story.active.lease());
    assert_eq!(next.claim(9).unwrap_err(), "refused: 9", "above the Lease's term");
    let root = next.claim(10).unwrap();
    assert_ne!(root, story.root);
    assert_eq!(story.place.replica(&story.active.lease()).claim(11).unwrap(), root);

    let refused = operator.refused(&["authority", "import", "backup", "--passphrase-file", "passphrase"], &[]);
    assert!(refused.contains(&root), "{refused}");
    operator.import("backup", &["--replace"]);
    assert_eq!(story.place.replica(&next.lease()).claim(13).unwrap(), story.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_private_and_nothing_is_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let story = Story::tell(Cluster::shared()).await;
    let operator = Operator::of(&story.place);
    operator.export("backup");
    let path = operator.folder.path().join("backup");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let content = fs::read_to_string(&path).unwrap();
    assert!(content.contains(&story.root) && !content.contains("PRIVATE KEY"), "{content}");
    let refused = operator.refused(&["authority", "export"], &["--out", "backup", "--passphrase-file", "passphrase"]);
    assert!(refused.contains("backup exists"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    assert_eq!(story.place.found().await, story.newest, "an export writes nothing");

    let empty = Place::make(Cluster::shared()).await;
    let operator = Operator::of(&empty);
    let refused = operator.refused(&["authority", "export"], &["--out", "none", "--passphrase-file", "passphrase"]);
    assert!(refused.contains("nothing to export"), "{refused}");
    assert!(operator.done(&["recover"], &[]).contains("Secret countersign-authority: not there"));
}

/// As istiod makes its own: RSA 2048 in PKCS#1, organisation only, keyCertSign only.
fn istiods_own() -> (String, String) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use rsa::{pkcs1::EncodeRsaPrivateKey as _, pkcs8::EncodePrivateKey as _};
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let pair = KeyPair::try_from(key.to_pkcs8_der().unwrap().as_bytes()).unwrap();
    let text = STANDARD.encode(key.to_pkcs1_der().unwrap().as_bytes());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.self_signed(&pair).unwrap().pem(), pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_of_a_running_mesh_is_taken_over_with_its_root() {
    let cluster = Cluster::shared();
    let place = Place::make(cluster).await;
    let istio = cluster.namespace("istio").await;
    let (root, key) = istiods_own();
    let files: [(&str, &[u8]); 5] = [
        ("ca-cert.pem", root.as_bytes()),
        ("ca-key.pem", key.as_bytes()),
        ("root-cert.pem", root.as_bytes()),
        ("cert-chain.pem", b""),
        ("key.pem", b""),
    ];
    cluster.secret(&istio, "istio-ca-secret", &files).await;
    let operator = Operator::of(&place);
    let from = format!("{istio}/istio-ca-secret");
    let said = operator.done(&["authority", "import", "--istio-secret", &from], &[]);
    let fingerprint = fingerprint(&root);
    assert!(said.contains(&format!("imported root {fingerprint}")), "{said}");
    let replica = place.replica(&BTreeMap::new());
    assert_eq!(replica.claim(2).unwrap(), fingerprint);
    let trust = String::from_utf8(content_of(&place.found().await[TRUST]).unwrap().clone()).unwrap();
    assert!(trust.contains(root.lines().nth(1).unwrap()), "the mesh's root is the trust bundle");
    let refused = operator.refused(&["authority", "import", "--istio-secret", &format!("{istio}/none")], &[]);
    assert!(refused.contains("it does not exist"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugged_in_intermediate_is_taken_over_with_its_chain() {
    let cluster = Cluster::shared();
    let place = Place::make(cluster).await;
    let istio = cluster.namespace("istio").await;
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root of the mesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::from_params(&params, root_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let intermediate = params.signed_by(&key, &issuer).unwrap().pem();
    let key = key.serialize_pem();
    let files: [(&str, &[u8]); 4] = [
        ("ca-cert.pem", intermediate.as_bytes()),
        ("ca-key.pem", key.as_bytes()),
        ("root-cert.pem", root.as_bytes()),
        ("cert-chain.pem", intermediate.as_bytes()),
    ];
    cluster.secret(&istio, "cacerts", &files).await;
    let operator = Operator::of(&place);
    operator.done(&["authority", "import", "--istio-secret", &format!("{istio}/cacerts")], &[]);
    assert_eq!(place.replica(&BTreeMap::new()).claim(2).unwrap(), fingerprint(&intermediate));

    cluster.secret(&istio, "broken", &[files[0], files[2]]).await;
    let refused = operator.refused(&["authority", "import", "--istio-secret", &format!("{istio}/broken")], &[]);
    assert!(refused.contains("ca-key.pem missing"), "{refused}");
}

fn fingerprint(pem: &str) -> String {
    let certificate = Certificate::all_from_pem(pem.as_bytes()).unwrap().remove(0);
    certificate.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect()
}
