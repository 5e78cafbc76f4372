//! Requests that are being answered, counted, so that a server can leave when there are none.

use tokio::sync::watch;

/// The count.
#[derive(Debug, Default)]
pub struct UnderWay(watch::Sender<usize>);

/// One request, counted until it is dropped.
pub(super) struct Counted<'a>(&'a watch::Sender<usize>);

impl UnderWay {
    /// Counts one more.
    pub(super) fn begin(&self) -> Counted<'_> {
        self.0.send_modify(|requests| *requests += 1);
        Counted(&self.0)
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        // an error would mean that the sender is gone, which is here
        let _none = self.0.subscribe().wait_for(|requests| *requests == 0).await.is_ok();
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}
