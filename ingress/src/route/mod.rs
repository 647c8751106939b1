//! The route table: implements `proxy::route::Router`; pure.

mod field_index;
mod listener;
mod matching;
mod order;
mod ranked;
mod redirect;
mod table;
mod tcp;
mod text_index;
mod trie;

pub use table::{HostEntry, Lost, Table, TableParts};
