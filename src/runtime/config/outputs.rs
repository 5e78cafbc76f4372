//! The settings of `agent` for files with the SVID.

use std::path::PathBuf;

use rustix::process::Signal;

use super::{Environment, istio::HEADER, parse, sources::Sources};
use crate::runtime::names;

/// Files with the SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputConfig {
    /// Where they are.
    pub dir: PathBuf,
    /// Their mode, at most 0777.
    pub mode: u32,
    /// Who is told of a change.
    pub notice: Option<NoticeConfig>,
}

/// How somebody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeConfig {
    /// By a program.
    Command {
        /// A path, or a name that is looked for in `PATH`.
        program: String,
        /// As they are.
        arguments: Vec<String>,
        /// Variables that it does not get.
        withheld: Vec<String>,
    },
    /// By a signal.
    Signal {
        /// Which.
        signal: Signal,
        /// Names the process.
        pid_file: PathBuf,
    },
}

impl OutputConfig {
    /// Reads them all; what is wrong is noted in `from`. `None` without a directory.
    pub(super) fn read(from: &mut Sources, environment: &Environment) -> Option<Self> {
        let dir = from.one("output_dir", parse::path);
        let mode = from.one("output_mode", parse::file_mode);
        let command = from.one("output_command", command);
        let signal = from.one("output_signal", signal);
        let pid_file = from.one("output_pid_file", parse::path);
        if !from.is_chosen("output_dir") {
            let without = ["output_mode", "output_command", "output_signal", "output_pid_file"];
            for field in without.into_iter().filter(|field| from.is_chosen(field)).collect::<Vec<_>>() {
                from.refuse(field, "counts with outputDir only: set that, or leave this out");
            }
        }
        if from.is_chosen("output_command") && from.is_chosen("output_signal") {
            from.refuse("output_signal", "there is a command already: leave one of the two out");
        }
        for (field, other, name) in [
            ("output_signal", "output_pid_file", "outputPidFile"),
            ("output_pid_file", "output_signal", "outputSignal"),
        ] {
            if from.is_chosen(field) && !from.is_chosen(other) {
                from.refuse(field, format!("needs {name} as well"));
            }
        }
        let by_command = command.map(|words| {
            let withheld = secrets_in(environment).cloned().collect();
            NoticeConfig::Command { program: words.program, arguments: words.arguments, withheld }
        });
        let by_signal = signal.zip(pid_file).map(|(signal, pid_file)| NoticeConfig::Signal { signal, pid_file });
        Some(Self { dir: dir?, mode: mode?, notice: by_command.or(by_signal) })
    }
}

struct Words {
    program: String,
    arguments: Vec<String>,
}

/// Whoever needs quotes or variables names a script.
fn command(text: &str) -> Result<Words, String> {
    let mut words = text.split_whitespace().map(str::to_owned);
    let program = words.next().ok_or_else(|| "must not be empty".to_owned())?;
    Ok(Words { program, arguments: words.collect() })
}

/// The variables whose values may be secrets: headers for the CA.
fn secrets_in(environment: &Environment) -> impl Iterator<Item = &String> {
    let own = names::variable("ca_headers");
    environment.keys().filter(move |name| name.starts_with(HEADER) || **name == own)
}

/// Those that ask a process to read its files again. Others end one.
fn signal(text: &str) -> Result<Signal, String> {
    match text.strip_prefix("SIG").unwrap_or(text) {
        "HUP" => Ok(Signal::HUP),
        "USR1" => Ok(Signal::USR1),
        "USR2" => Ok(Signal::USR2),
        _ => Err(format!("{text:?} is not a signal that has files read again: write HUP, USR1 or USR2")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::runtime::{
        args::{Cli, Command},
        config::{AgentConfig, ConfigError, Environment},
    };

    fn loaded(flags: &[&str]) -> Result<Option<OutputConfig>, ConfigError> {
        loaded_in(&Environment::new(), flags)
    }

    fn loaded_in(environment: &Environment, flags: &[&str]) -> Result<Option<OutputConfig>, ConfigError> {
        let required = ["countersign", "agent", "--ca-address", "a:1", "--token-file", "t", "--root-file", "r"];
        let Command::Agent(args) = Cli::try_parse_from(required.iter().chain(flags)).unwrap().command else {
            panic!("not agent");
        };
        AgentConfig::load(&args, environment).map(|config| config.output)
    }

    #[test]
    fn nothing_is_written_unless_a_directory_is_named_and_then_for_the_owner_alone() {
        assert_eq!(loaded(&[]).unwrap(), None);
        let expected = OutputConfig { dir: "d".into(), mode: 0o600, notice: None };
        assert_eq!(loaded(&["--output-dir", "d"]).unwrap(), Some(expected));
    }

    #[test]
    fn a_command_is_split_at_spaces_and_a_signal_has_a_process() {
        let command = loaded(&["--output-dir", "d", "--output-command", " nginx  -s reload "]).unwrap().unwrap().notice;
        let arguments = vec!["-s".into(), "reload".into()];
        let expected = NoticeConfig::Command { program: "nginx".into(), arguments, withheld: Vec::new() };
        assert_eq!(command, Some(expected));
        let flags = ["--output-dir", "d", "--output-signal", "SIGHUP", "--output-pid-file", "p"];
        let expected = NoticeConfig::Signal { signal: Signal::HUP, pid_file: "p".into() };
        assert_eq!(loaded(&flags).unwrap().unwrap().notice, Some(expected));
    }

    #[test]
    fn headers_for_the_ca_are_withheld_from_a_command() {
        let variables = ["CA_HEADER_KEY", "CA_HEADER_b", "COUNTERSIGN_CA_HEADERS", "COUNTERSIGN_SVID_TTL", "PATH"];
        let environment = variables.map(|name| (name.to_owned(), String::new())).into();
        let flags = ["--output-dir", "d", "--output-command", "x"];
        let Some(NoticeConfig::Command { withheld, .. }) = loaded_in(&environment, &flags).unwrap().unwrap().notice
        else {
            panic!("no command");
        };
        assert_eq!(withheld, variables[..3]);
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for (flags, expected) in [
            (&["--output-mode", "0640"][..], "--output-mode: counts with outputDir only"),
            (&["--output-command", "x"], "--output-command: counts with outputDir only"),
            (&["--output-dir", "d", "--output-command", " "], "--output-command: must not be empty"),
            (&["--output-dir", "d", "--output-signal", "KILL", "--output-pid-file", "p"], "write HUP, USR1 or USR2"),
            (&["--output-dir", "d", "--output-signal", "HUP"], "--output-signal: needs outputPidFile as well"),
            (&["--output-dir", "d", "--output-pid-file", "p"], "--output-pid-file: needs outputSignal as well"),
            (
                &["--output-dir", "d", "--output-command", "x", "--output-signal", "HUP", "--output-pid-file", "p"],
                "--output-signal: there is a command already",
            ),
        ] {
            let error = loaded(flags).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
