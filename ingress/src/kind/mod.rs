//! The kinds people write: one file a kind, shapes only.
