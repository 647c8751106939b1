//! Emissary kinds to a route table, and the ingress program around it.
//!
//! Documents -> [`keyring`] (key material by name) -> [`compile`] (pure) -> [`plan::Plan`] -> [`publish`] (shared objects by
//! key) -> [`route::Table`], which implements [`proxy::route::Router`].

pub mod app;
pub mod cli;
pub mod command;
pub mod compile;
pub mod keyring;
pub mod kind;
pub mod plan;
pub mod publish;
pub mod report;
pub mod route;
