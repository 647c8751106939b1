//! The record of one request (HTTP) or connection (TCP): what the access log says.

use std::{net::SocketAddr, time::Duration};

use crate::{ConnMeta, Reason, route::Dice, upstream::Attempts};

/// Everything an access line needs, borrowed at the end of a request. Field names are those of `docs/contract.md`.
#[derive(Debug)]
pub struct Record<'a> {
    /// The connection.
    pub conn: &'a ConnMeta,
    /// Method; empty for TCP.
    pub method: &'a str,
    /// Authority as the client sent it.
    pub authority: &'a str,
    /// Path with query as the client sent it.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2`, `TCP`.
    pub protocol: &'static str,
    /// Status sent downstream; 0 for none.
    pub status: u16,
    /// gRPC status, when the response carried one.
    pub grpc_status: Option<u16>,
    /// Why it ended as it did.
    pub reason: Reason,
    /// From the head of the request to the end of the response.
    pub duration: Duration,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// Name of the rule that decided; empty for none.
    pub route: &'a str,
    /// Name of the cluster; empty for none.
    pub cluster: &'a str,
    /// What happened upstream.
    pub attempts: &'a Attempts,
    /// The dice.
    pub dice: Dice,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Trace id of `traceparent`; empty for none.
    pub trace_id: &'a str,
}
