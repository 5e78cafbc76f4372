//! Reads a set of files again and again.

use std::{path::Path, thread, time::Duration};

use super::repeated::Repeated;
use crate::support::svid_set::SvidSet;

const PAUSE: Duration = Duration::from_millis(10);

/// Goes wrong if a set is ever torn.
pub(super) fn read_again_and_again(directory: &Path) -> Repeated {
    let directory = directory.to_owned();
    Repeated::start(move |outcomes| {
        while outcomes.go_on() {
            outcomes.note(SvidSet::read(&directory));
            thread::sleep(PAUSE);
        }
    })
}
