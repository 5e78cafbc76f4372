//! Asking for a passphrase, without showing it.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To open something: a wrong one shows.
    Once,
    /// To encrypt something: a slip would be noticed too late.
    Twice,
}

/// The passphrase that somebody types, or, if nobody is there, the first line of stdin.
///
/// # Errors
///
/// When there is none, or the two differ.
pub fn ask(how_often: Ask) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line();
    }
    let typed = hidden("passphrase: ")?;
    if how_often == Ask::Twice && hidden("the same again: ")? != typed {
        return Err(io::Error::other("the two are different"));
    }
    Ok(typed)
}

fn hidden(prompt: &str) -> io::Result<Zeroizing<String>> {
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
    let _shown_again = Restored(before);
    let typed = line();
    writeln!(stderr)?;
    typed
}

fn line() -> io::Result<Zeroizing<String>> {
    // longer than any that is typed: a text that grows leaves copies behind
    let mut line = Zeroizing::new(String::with_capacity(1024));
    io::stdin().lock().read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    if line.is_empty() {
        return Err(io::Error::other("no passphrase was given: use --passphrase-file, or write it to stdin"));
    }
    Ok(line)
}

struct Restored(Termios);

impl Drop for Restored {
    fn drop(&mut self) {
        // there is nothing to be done about it here
        let _terminal_is_gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.0).is_err();
    }
}
