//! `docs/log-events.md` has each event that the log can have, with its levels and fields as the code has them, and what it means.
//! `UPDATE_DOCS=1` writes all but the meanings. Every line of the log has an event.

#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: it reads files and stops at a surprise"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];
/// Given as an argument or a field to the one place that writes the line: how that is called, and in which file the line is.
const HANDED_ON: [(&str, &str); 5] = [
    ("ExposedKey::new(", "storage/exposed_key.rs"),
    ("event: ", "k8s/list_watch.rs"),
    ("self.lacks(", "k8s/mesh_roots.rs"),
    ("self.refusal((&error, status), ", "grpc/pair_service.rs"),
    ("for event in [", "runtime/shutdown.rs"),
];

/// What the code says of an event.
#[derive(Clone, Debug, Default)]
struct Said {
    levels: BTreeSet<usize>,
    fields: BTreeSet<String>,
}

#[test]
fn each_event_is_described_as_it_is() {
    let events = events();
    assert!(events.len() > 150, "few events: {events:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log-events.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, _) = page.split_once("| event |").expect("a table");
    let meanings: BTreeMap<&str, &str> = page.lines().filter_map(described).collect();
    let mut table = String::from("| event | level | fields | meaning |\n|---|---|---|---|\n");
    for (event, Said { levels, fields }) in &events {
        let levels: Vec<_> = levels.iter().filter_map(|&level| LEVELS.get(level).copied()).collect();
        let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
        let meaning = meanings.get(event.as_str()).copied().unwrap_or_default();
        table += &format!("| `{event}` | {} | {} | {meaning} |\n", levels.join(", "), fields.join(", "));
    }
    let expected = format!("{head}{table}");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert!(
            page == expected,
            "docs/log-events.md is not what the code says: UPDATE_DOCS=1 cargo test --test log_events"
        );
    }
    let has_meaning = |event: &String| meanings.get(event.as_str()).is_some_and(|meaning| !meaning.is_empty());
    let unexplained: Vec<_> = events.into_keys().filter(|event| !has_meaning(event)).collect();
    assert_eq!(unexplained, [""; 0], "without a meaning in docs/log-events.md");
}

/// A row's event and meaning.
fn described(row: &str) -> Option<(&str, &str)> {
    let (event, rest) = row.strip_prefix("| `")?.split_once("` | ")?;
    let meaning = rest.splitn(3, " | ").nth(2)?;
    Some((event, meaning.strip_suffix('|')?.trim()))
}

/// Every event of the program.
fn events() -> BTreeMap<String, Said> {
    let sources: Vec<_> = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut events: BTreeMap<String, Said> = BTreeMap::new();
    for (path, code) in &sources {
        for (level, arguments) in lines(code) {
            let mut fields = BTreeSet::new();
            let mut names = None;
            for argument in arguments.iter().filter(|argument| !argument.starts_with('"')) {
                let (name, value) = argument.split_once('=').unwrap_or((argument, argument));
                let name = name.trim().trim_start_matches(['%', '?']).to_owned();
                if name == "event" {
                    names = Some(texts(value));
                } else {
                    fields.insert(name);
                }
            }
            let mut names =
                names.unwrap_or_else(|| panic!("{}: a line without an event: {arguments:?}", path.display()));
            if names.is_empty() {
                names = named_elsewhere(path, code, &sources);
            }
            assert!(!names.is_empty(), "{}: which event is it? {arguments:?}", path.display());
            for name in names {
                let said = events.entry(name).or_default();
                said.levels.insert(level);
                said.fields.extend(fields.iter().cloned());
            }
        }
    }
    events
}

/// What the variable `event` can be in a file: by a `let` there, or as it was handed on.
fn named_elsewhere(path: &Path, code: &str, sources: &[(PathBuf, String)]) -> Vec<String> {
    let by_let = code.split("let event = ").skip(1).filter_map(|rest| rest.split(';').next()).flat_map(texts);
    let handed = HANDED_ON.iter().filter(|(_, file)| path.ends_with(file));
    let handed = handed.flat_map(|(how, _)| {
        let folder = path.parent().unwrap();
        let near = sources.iter().filter(move |(other, _)| other.starts_with(folder));
        near.flat_map(move |(_, code)| code.split(how).skip(1))
            .filter_map(|rest| rest.split([')', ']', '}', '\n']).next())
            .flat_map(texts)
    });
    by_let.chain(handed).filter(|text| text.contains('_') || text == "leaving").collect()
}

/// The texts in a piece of code.
fn texts(code: &str) -> Vec<String> {
    code.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Level and arguments of each line that the code can write.
fn lines(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (level, name) in LEVELS.iter().enumerate() {
        let call = format!("{name}!(");
        for (at, _) in code.match_indices(&call) {
            let before = code.get(..at).unwrap();
            if !before.ends_with(|character: char| character.is_alphanumeric() || character == '_') {
                found.push((level, arguments(code.get(at + call.len()..).unwrap())));
            }
        }
    }
    found
}

/// Up to the bracket that closes the call.
fn arguments(code: &str) -> Vec<String> {
    let (mut found, mut argument, mut depth, mut in_text, mut previous) = (Vec::new(), String::new(), 0, false, ' ');
    for character in code.chars() {
        match character {
            '"' if previous != '\\' => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 && !in_text {
            found.push(std::mem::take(&mut argument).trim().to_owned());
        } else {
            argument.push(character);
        }
        previous = character;
    }
    found.push(argument.trim().to_owned());
    found.retain(|argument| !argument.is_empty());
    found
}

/// All but tests, with their paths.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" || name == "testing" || name.ends_with("_tests") {
            continue;
        } else if path.is_dir() {
            found.extend(sources(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn calls_are_read() {
    let code = r#"warn!(event = "a_b", %error, n = f(1, "x,)"), "said, (so)"); info!(event, id = %id);"#;
    let read = lines(code);
    assert_eq!(read.len(), 2);
    let expected = [r#"event = "a_b""#, "%error", r#"n = f(1, "x,)")"#, r#""said, (so)""#];
    assert_eq!(read.first().unwrap(), &(1, expected.map(str::to_owned).to_vec()));
}
