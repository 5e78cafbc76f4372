//! What the store promises, under kill -9, changed bytes, cut and missing files, and a full disk: nothing that was
//! acknowledged is lost, nothing is read wrongly, and damage is reported with the recovery command.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests break files on purpose, and a child is told by its environment"
)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too"
)]

mod written;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use countersign::{
    service::ports::{IssuanceLog, StateError, StateStore},
    storage::{
        active_lock::ActiveLock, data_dir::DataDir, issuance_log::EmbeddedIssuanceLog, log_reader::LogReadError,
        replica_slot::ReplicaSlot, retention::Retention, state_store::EmbeddedStateStore,
    },
};
use written::{
    Acknowledged, NotRandom, OBJECTS, Still, check_records, check_state, content, event, open_log, open_state,
    read_log, reopen, root_of,
};

const RECOVERY: &str = "countersign recover --data-dir ";

/// Not good randomness, but one that a seed brings back.
struct Dice(u64);

impl Dice {
    fn new(name: &str) -> Self {
        let seed = env::var("STORAGE_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | u64::from(rand_nanos()));
        println!("{name}: STORAGE_CRASH_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

fn rand_nanos() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos()
}

/// Not a test of its own: what the children of the tests do, each with a data directory in its environment.
#[test]
fn child() {
    let Ok(path) = env::var("STORAGE_CRASH_CHILD") else { return };
    let run = env::var("STORAGE_CRASH_RUN").unwrap();
    let data_dir = DataDir::open(Path::new(&path)).unwrap();
    let slot = ReplicaSlot::take_first_free(&data_dir, &NotRandom).unwrap();
    let lock = ActiveLock::try_take(&data_dir).unwrap().unwrap();
    let store = EmbeddedStateStore::open(data_dir.clone(), lock, root_of).unwrap();
    let log = EmbeddedIssuanceLog::open(&data_dir, slot.lock(), Retention::default(), Arc::new(Still)).unwrap();
    let term = store.highest_term().unwrap().next();
    store.claim(term).unwrap();
    say(&format!("term {term}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            runtime.block_on(async {
                let append = async |lane: u32| {
                    for n in 0.. {
                        let serial = format!("{run}.{lane}.{n}");
                        if let Err(error) = log.append(event(&serial)).await {
                            return say(&format!("log-failed {} {error}", *log.writable().borrow()));
                        }
                        say(&format!("log {serial}"));
                    }
                };
                tokio::join!(append(0), append(1), append(2));
            });
        });
        for (name, object) in OBJECTS.into_iter().cycle() {
            let version = store.load(object).map(|found| found.map_or(0, |found| found.version)).unwrap_or(0);
            match store.compare_and_swap(object, version, term, &content(name, version + 1)) {
                Ok(version) => say(&format!("state {name} {version}")),
                Err(error) => return say(&format!("state-failed {error}")),
            }
        }
    });
}

/// On a line of its own, whatever the test harness wrote before; in one write, so that a kill cuts no line in two that
/// would read as another.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

fn child_command(shell: Option<&str>, path: &Path, run: usize) -> Command {
    let own = env::current_exe().unwrap();
    let mut command = match shell {
        Some(setup) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{setup}; exec timeout 60 \"$0\" \"$@\"")]).arg(own);
            command
        }
        None => Command::new(own),
    };
    command.args(["--exact", "child", "--nocapture"]);
    command.env("STORAGE_CRASH_CHILD", path).env("STORAGE_CRASH_RUN", run.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Kills a child after it has acknowledged `lines` things and `spins` of doing nothing; returns what it acknowledged.
fn kill_after(mut child: Child, lines: usize, spins: usize, known: &mut Acknowledged) -> usize {
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut heard = Vec::new();
    let acknowledges = |line: &String| ["state ", "log ", "term "].iter().any(|word| line.starts_with(word));
    while heard.len() < lines {
        let line = output.next().expect("the child writes until it is killed").unwrap();
        heard.extend(Some(line).filter(acknowledges));
    }
    (0..spins).for_each(|_| std::hint::spin_loop());
    child.kill().unwrap();
    heard.extend(output.map(Result::unwrap).filter(acknowledges));
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child ended by itself");
    heard.iter().for_each(|line| known.note(line));
    heard.len()
}

#[test]
fn two_hundred_kills_lose_nothing_that_was_acknowledged() {
    let mut dice = Dice::new("kills");
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("data");
    let mut known = Acknowledged::default();
    let (mut heard, mut next) = (0, 1);
    for run in 0..200 {
        let child = child_command(None, &path, run).spawn().unwrap();
        // Every fourth is killed while it starts.
        let lines = if run % 4 == 0 { 0 } else { 1 + dice.below(40) };
        heard += kill_after(child, lines, dice.below(2_000_000), &mut known);
        next = reopen(&path, &mut known, next);
    }
    let (log, _slot) = open_log(&path).unwrap();
    check_records(&read_log(&log, 1).unwrap(), 1, &known.serials);
    println!("{heard} acknowledgements, {} records, versions {:?}", known.serials.len(), known.versions);
    assert!(heard > 1000, "{heard} acknowledgements are too few to say anything");
}

/// A directory as a killed child leaves it.
fn written(dice: &mut Dice) -> (tempfile::TempDir, PathBuf, Acknowledged) {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("data");
    let mut known = Acknowledged::default();
    for run in 0..3 {
        let child = child_command(None, &path, run).spawn().unwrap();
        kill_after(child, 60, dice.below(100_000), &mut known);
    }
    known.serials.append(&mut known.new_serials);
    fs::write(path.join("root-cert.pem"), "a root").unwrap();
    (base, path, known)
}

fn copy(from: &Path, to: &Path) {
    let mode = fs::metadata(from).unwrap().permissions();
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, mode).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Files of state and log, relative.
fn store_files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("manifest")];
    let mut directories = vec![PathBuf::from("state"), PathBuf::from("issuance")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(path.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let inner = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { directories.push(inner) } else { files.push(inner) }
        }
    }
    files.sort();
    files
}

/// What came of opening a directory that was tampered with.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Intact,
    Reported(String),
}

fn open_tampered_state(path: &Path, known: &Acknowledged) -> Outcome {
    match open_state(path) {
        Ok(store) => {
            check_state(&store, &mut known.clone());
            store.close().unwrap();
            Outcome::Intact
        }
        Err(StateError::Damaged(text)) => Outcome::Reported(text),
        Err(error) => panic!("neither intact nor damaged: {error:?}"),
    }
}

fn open_tampered_log(path: &Path, known: &Acknowledged) -> Outcome {
    let read = open_log(path).and_then(|(log, _slot)| {
        let records = read_log(&log, 1);
        log.close();
        records
    });
    match read {
        Ok(records) => {
            check_records(&records, 1, &known.serials);
            Outcome::Intact
        }
        Err(LogReadError::Damaged(text)) => Outcome::Reported(text),
        Err(error) => panic!("neither intact nor damaged: {error:?}"),
    }
}

/// Tampers with a copy, opens it, and returns what state and log said.
fn tampered(path: &Path, known: &Acknowledged, tamper: impl FnOnce(&Path)) -> (Outcome, Outcome) {
    let base = tempfile::tempdir().unwrap();
    let broken = base.path().join("data");
    copy(path, &broken);
    tamper(&broken);
    let outcomes = (open_tampered_state(&broken, known), open_tampered_log(&broken, known));
    for outcome in [&outcomes.0, &outcomes.1] {
        if let Outcome::Reported(text) = outcome {
            assert!(text.contains(&format!("{RECOVERY}{}", broken.display())), "{text}");
        }
    }
    outcomes
}

#[test]
fn no_flipped_byte_is_read_as_something_else() {
    let mut dice = Dice::new("flips");
    let (_base, path, known) = written(&mut dice);
    let files = store_files(&path);
    let mut reported = 0;
    for round in 0..300 {
        let file = &files[round % files.len()];
        let content = fs::read(path.join(file)).unwrap();
        if content.is_empty() {
            continue;
        }
        // Where anything was written, mostly: the rest of a segment is zeros.
        let end = if round % 8 == 0 { content.len() } else { content.iter().rposition(|b| *b != 0).unwrap_or(0) + 1 };
        let at = dice.below(end);
        let flip = u8::try_from(1 + dice.below(255)).unwrap();
        println!("{} at {at} ^ {flip:#x}", file.display());
        let (state, log) = tampered(&path, &known, |broken| {
            let mut content = content;
            content[at] ^= flip;
            fs::write(broken.join(file), content).unwrap();
        });
        let is_log = file.starts_with("issuance");
        let (own, other) = if is_log { (&log, &state) } else { (&state, &log) };
        assert_eq!(*other, Outcome::Intact, "what was not touched is as it was");
        reported += usize::from(*own != Outcome::Intact);
    }
    println!("{reported} of 300 reported as damage");
    assert!(reported > 30, "only {reported} were noticed");
}

#[test]
fn no_cut_off_file_is_taken_for_whole() {
    let mut dice = Dice::new("cuts");
    let (_base, path, known) = written(&mut dice);
    let files = store_files(&path);
    for round in 0..120 {
        let file = &files[round % files.len()];
        let length = usize::try_from(fs::metadata(path.join(file)).unwrap().len()).unwrap();
        let cut = if round < files.len() { 0 } else { dice.below(length) };
        println!("{} cut to {cut} of {length}", file.display());
        tampered(&path, &known, |broken| {
            let file = fs::OpenOptions::new().write(true).open(broken.join(file)).unwrap();
            file.set_len(u64::try_from(cut).unwrap()).unwrap();
        });
    }
}

#[test]
fn what_was_deleted_is_named() {
    let mut dice = Dice::new("deletions");
    let (_base, path, known) = written(&mut dice);
    let delete = |parts: &'static [&'static str]| {
        move |broken: &Path| {
            for part in parts {
                let part = broken.join(part);
                if part.is_dir() { fs::remove_dir_all(part).unwrap() } else { fs::remove_file(part).unwrap() }
            }
        }
    };
    let rows: [(&'static [&'static str], &str, bool); 8] = [
        (&["state"], "the state is gone, but the manifest is there and names root r-authority", true),
        (&["manifest"], "the manifest is gone", true),
        (&["state", "manifest"], "root-cert.pem shows that there was a root", true),
        (&["state", "manifest", "root-cert.pem"], "the issuance log of replica-0 is there", true),
        (&["state/db"], "files of", true),
        (&["state/conf"], "files of", true),
        (&["issuance/replica-0/head"], "its head is gone", false),
        (&["issuance/replica-0/records"], "its records are gone", false),
    ];
    for (parts, text, is_state) in rows {
        let (state, log) = tampered(&path, &known, delete(parts));
        let (own, other) = if is_state { (state, log) } else { (log, state) };
        assert!(matches!(&own, Outcome::Reported(found) if found.contains(text)), "{parts:?}: {own:?}");
        assert_eq!(other, Outcome::Intact);
    }
}

/// A file size limit stands in for a full disk: writes fail in the midst of work, and the process goes on.
#[test]
fn a_full_disk_stops_writing_and_loses_nothing() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("data");
    let mut known = Acknowledged::default();
    // Blocks of 512 bytes: one segment of a database and a bit; a child that went on for ever would be ended.
    let limit = "trap '' XFSZ; ulimit -f 600";
    let output = child_command(Some(limit), &path, 0).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().for_each(|line| known.note(line));
    assert!(text.contains("state-failed the state store failed"), "{text}");
    assert!(text.contains("log-failed false the issuance log can't be written"), "{text}");
    // With room again all is there, and work goes on.
    let mut next = 1;
    for run in [1, 2] {
        next = reopen(&path, &mut known, next);
        kill_after(child_command(None, &path, run).spawn().unwrap(), 20, 0, &mut known);
    }
    reopen(&path, &mut known, next);
}
