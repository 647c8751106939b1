//! The route table: implements `proxy::route::Router`; pure.

mod matching;
mod order;
mod redirect;
mod table;
mod trie;
mod weight;

pub use table::{HostEntry, Lost, Table, TableParts};
