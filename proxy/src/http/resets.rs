//! Streams that an HTTP/2 client gives up as soon as it has opened them, answered in part or not at all: that costs us more than the client, and no limit
//! of concurrent streams holds it (CVE-2023-44487).

use std::{cell::RefCell, collections::VecDeque};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

/// The early resets of a connection.
#[derive(Debug)]
pub(super) struct EarlyResets {
    /// So many may come within [`WINDOW`].
    max: usize,
    /// When those of the last [`WINDOW`] came, less one for each stream that was answered.
    recent: RefCell<VecDeque<Instant>>,
    /// There were too many of them.
    flooded: Notify,
}

impl EarlyResets {
    pub(super) fn new(max: usize) -> Self {
        Self { max, recent: RefCell::default(), flooded: Notify::new() }
    }

    /// The client has given up a stream that was opened `after` ago. Later than early it is a deadline that passed; and
    /// a client whose deadlines are short gives up early, too, but not so often.
    pub(super) fn gave_up(&self, after: Duration) {
        if after >= EARLY {
            return;
        }
        let now = Instant::now();
        let mut recent = self.recent.borrow_mut();
        while recent.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            recent.pop_front();
        }
        if recent.len() < self.max {
            recent.push_back(now);
        } else {
            self.flooded.notify_one();
        }
    }

    /// A stream was answered: makes up for one that was not.
    pub(super) fn answered(&self) {
        self.recent.borrow_mut().pop_front();
    }

    /// Ends when there were too many. Cancel-safe.
    pub(super) async fn flooded(&self) {
        self.flooded.notified().await;
    }
}

/// A reset this soon after the request is early.
const EARLY: Duration = Duration::from_secs(1);
/// Early resets are forgotten after this.
const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn is_flood(resets: &EarlyResets) -> bool {
        resets.flooded().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_a_flood_from_one_too_many_on() {
        let resets = EarlyResets::new(100);
        for _ in 0..100 {
            resets.gave_up(SOON);
        }
        resets.gave_up(EARLY);
        assert!(!is_flood(&resets));
        resets.gave_up(SOON);
        assert!(is_flood(&resets));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_in_every_window_are_none() {
        let resets = EarlyResets::new(100);
        for _ in 0..1000 {
            resets.gave_up(SOON);
            advance(WINDOW / 100).await;
        }
        for _ in 0..10 {
            advance(WINDOW).await;
            for _ in 0..100 {
                resets.gave_up(SOON);
            }
        }
        assert!(!is_flood(&resets));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_makes_up_for_one() {
        let resets = EarlyResets::new(1);
        for _ in 0..10 {
            resets.gave_up(SOON);
            resets.answered();
        }
        resets.answered();
        resets.gave_up(SOON);
        assert!(!is_flood(&resets));
        resets.gave_up(SOON);
        assert!(is_flood(&resets), "answers are not saved up");
    }
}
