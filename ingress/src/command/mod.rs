//! The program's commands besides `run`.

pub mod check;
#[cfg(feature = "demo")]
pub mod demo;
pub mod dev_authority;
pub mod explain;
pub mod identity;
mod offline;
