//! What engines, routing and pool speak of: a leaf module that imports none of them.

mod answer;
mod body;
mod edits;
mod head;
pub mod hygiene;
mod replay;

pub use answer::Answer;
pub use body::{AtEnd, Broken, Cut, Failed, ReqBody, ResBody, Tally};
pub use edits::{Edits, HeaderEdit, PathEdit};
pub use head::{Fields, Head, RawFields, Scheme};
pub use replay::{REPLAY_LIMIT, Replay};
