//! The head of an issuance log: a small file beside the records that says which of them there must be. It is written in
//! place, one sector, after the records are durable and before anybody is answered; so a log whose end is cut off is
//! noticed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::{
    data_dir::DataDir,
    files,
    frame::{self, FrameError},
    slot::Slot,
};

const FORMAT: u16 = 1;
const PLACE: &[u8] = b"head";

/// The records that must be there: `first` to `last`, none if `last < first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogHead {
    pub(super) first: u64,
    pub(super) last: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("its head can't be used: {0}")]
    Content(#[from] FrameError),
    #[error("its head can't be read: {0}")]
    Io(#[from] io::Error),
}

/// The head, open for writing.
pub(super) struct HeadFile {
    file: File,
}

impl LogHead {
    /// Of a log without records.
    pub(super) const EMPTY: Self = Self { first: 1, last: 0 };

    /// `None` if there is no head.
    pub(super) fn read(data_dir: &DataDir, slot: Slot) -> Result<Option<Self>, HeadError> {
        let Some(bytes) = files::read_if_present(&path(data_dir, slot))? else { return Ok(None) };
        let body = frame::open(FORMAT, PLACE, &bytes)?;
        let numbers = body.split_first_chunk::<8>().and_then(|(first, rest)| Some((first, rest.first_chunk::<8>()?)));
        let (first, last) = numbers.ok_or_else(|| FrameError::Content("it is too short".into()))?;
        Ok(Some(Self { first: u64::from_be_bytes(*first), last: u64::from_be_bytes(*last) }))
    }

    fn encode(self) -> Vec<u8> {
        let body = [self.first.to_be_bytes(), self.last.to_be_bytes()].concat();
        frame::seal(FORMAT, PLACE, &body).to_vec()
    }
}

impl HeadFile {
    /// Writes the first head of a log and opens it.
    pub(super) fn create(data_dir: &DataDir, slot: Slot) -> io::Result<Self> {
        files::write_atomically(&path(data_dir, slot), 0o600, &LogHead::EMPTY.encode())?;
        Self::open(data_dir, slot)
    }

    pub(super) fn open(data_dir: &DataDir, slot: Slot) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().write(true).open(path(data_dir, slot))? })
    }

    /// Durable when it returns.
    pub(super) fn write(&self, head: LogHead) -> io::Result<()> {
        self.file.write_all_at(&head.encode(), 0)?;
        self.file.sync_data()
    }
}

fn path(data_dir: &DataDir, slot: Slot) -> PathBuf {
    data_dir.issuance_of(slot).join("head")
}
