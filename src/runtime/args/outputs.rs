//! The flags of `agent` for files with the SVID.

use clap::Args;
use serde::Serialize;

/// Where else than on the socket the SVID goes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputArgs {
    /// Directory in which the SVID is kept in files as well, for gateways that read files; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<String>,
    /// Mode of those files, four octal digits
    #[arg(long, value_name = "MODE")]
    pub output_mode: Option<String>,
    /// Program that is run after the files have changed, with arguments, split at spaces; no shell
    #[arg(long, value_name = "COMMAND")]
    pub output_command: Option<String>,
    /// Signal that is sent after the files have changed, in place of a command: HUP, USR1 or USR2
    #[arg(long, value_name = "SIGNAL")]
    pub output_signal: Option<String>,
    /// File with the ID of the process that gets the signal
    #[arg(long, value_name = "FILE")]
    pub output_pid_file: Option<String>,
}

impl OutputArgs {
    /// What holds where no source says anything.
    pub fn defaults() -> Self {
        Self { output_mode: Some("0600".into()), ..Self::default() }
    }
}
