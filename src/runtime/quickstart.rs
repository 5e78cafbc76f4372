//! `countersign quickstart`: the main job in a folder of its own. A pair, an agent, an identity, its rotation, the death
//! of the active, and the next identity all the same.

mod children;
mod folder;
mod identity;
mod stage;
mod steps;

use std::{
    io::{self, Write as _},
    path::Path,
};

use tokio::runtime::Builder;

use self::{folder::Folder, stage::Stage};
use super::{args::QuickstartArgs, shutdown::Shutdown};
use crate::cli::render::Palette;

/// Why the quickstart did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// There is no folder to work in.
    #[error("folder {path}: {problem}")]
    Folder {
        /// Which.
        path: String,
        /// Why not.
        problem: String,
    },
    /// A step failed.
    #[error("{step}: {problem}\n{last_words}all files are left in {folder}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        problem: String,
        /// The last lines of each child's log.
        last_words: String,
        /// Where everything is.
        folder: String,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Nothing can be said, or waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Does everything, says each step on stdout, and leaves no process behind.
///
/// # Errors
///
/// When a step fails, or a signal asks to leave.
pub fn run(args: &QuickstartArgs, palette: Palette) -> Result<(), QuickstartError> {
    let folder = Folder::make(args.keep.as_deref())?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(until_interrupted(folder.path(), palette));
    match result {
        Ok(()) | Err(QuickstartError::Interrupted) if args.keep.is_none() => folder.remove()?,
        Ok(()) => say(&format!("left behind: {}", folder.path().display()))?,
        Err(_) => {}
    }
    result
}

async fn until_interrupted(folder: &Path, palette: Palette) -> Result<(), QuickstartError> {
    let shutdown = Shutdown::on_signal()?;
    let mut stage = Stage::new(folder);
    let result = tokio::select! {
        // first, because a terminal's Ctrl-C ends the children as well
        biased;
        () = shutdown.requested() => Err(QuickstartError::Interrupted),
        result = steps::all(&mut stage, palette) => result,
    };
    stage.clear().await;
    result
}

/// To stdout at once, also into a pipe.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
