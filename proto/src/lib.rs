//! The wire contracts: messages and calls as generated from `proto/`. No logic.

/// The SPIFFE Workload API.
pub mod workload {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        clippy::clone_on_ref_ptr,
        clippy::allow_attributes_without_reason,
        clippy::unused_trait_names,
        clippy::use_self,
        reason = "generated; proto/workload.proto is the documentation"
    )]
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}
