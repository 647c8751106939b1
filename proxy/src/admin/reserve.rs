//! Descriptors for the admin port when the data plane has all others: what shows that they are exhausted must still answer.

use std::fs::File;

/// Connections that can be accepted so.
const KEPT: usize = 4;

/// Descriptors that are held to be given up.
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    pub(super) fn new() -> Self {
        let mut reserve = Self(Vec::with_capacity(KEPT));
        reserve.fill();
        reserve
    }

    /// Gives one up for a connection that waits; `false`: there is none.
    pub(super) fn give_up(&mut self) -> bool {
        self.0.pop().is_some()
    }

    /// Takes back what was given up, now that a connection has ended.
    pub(super) fn fill(&mut self) {
        while self.0.len() < KEPT {
            let Ok(held) = File::open("/dev/null") else { return };
            self.0.push(held);
        }
    }
}
