//! The record of one request (HTTP) or connection (TCP): what the access log says.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use identity::SpiffeId;

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

impl Record<'_> {
    /// One JSON object with the keys of `docs/contract.md`, in their order.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut line = Line(String::with_capacity(512));
        line.text("time", &now());
        line.text("method", self.method);
        line.text("authority", self.authority);
        line.text("path", self.path);
        line.text("protocol", self.protocol);
        line.number("status", u128::from(self.status));
        line.text("flags", response_flags(self.reason.code()));
        line.text("reason", self.reason.code());
        line.number("duration_us", self.duration.as_micros());
        line.number("bytes_in", u128::from(self.bytes_in));
        line.number("bytes_out", u128::from(self.bytes_out));
        line.text("downstream", &self.client.to_string());
        line.text("downstream_tls", self.conn.tls.as_ref().map_or("", |tls| tls.version));
        let downstream_id = self.conn.peer_id.as_ref().and_then(|peer| peer.spiffe_id.as_ref());
        line.text("downstream_spiffe_id", &id(downstream_id));
        line.text("route", self.route);
        line.text("cluster", self.cluster);
        line.text("upstream", &self.attempts.upstream.map(|addr| addr.to_string()).unwrap_or_default());
        line.text("upstream_tls", self.attempts.tls.unwrap_or_default());
        let upstream_id = self.attempts.peer.as_ref().and_then(|peer| peer.spiffe_id.as_ref());
        line.text("upstream_spiffe_id", &id(upstream_id));
        line.text("local_spiffe_id", &id(self.attempts.local_id.as_ref()));
        line.number("attempts", u128::from(self.attempts.count));
        line.number("dice", u128::from(self.dice.value()));
        line.text("request_id", self.request_id);
        line.text("trace_id", self.trace_id);
        line.end()
    }

    /// One line for people.
    pub(super) fn to_text(&self) -> Vec<u8> {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { clean(text) };
        let upstream = self.attempts.upstream.map(|addr| addr.to_string()).unwrap_or_default();
        let line = format!(
            "{} {} \"{} {} {}\" {} {} {} {}us in={} out={} host={} route={} cluster={} upstream={} id={}\n",
            now(),
            self.client,
            clean(self.method),
            clean(self.path),
            self.protocol,
            self.status,
            dash(response_flags(self.reason.code())),
            self.reason.code(),
            self.duration.as_micros(),
            self.bytes_in,
            self.bytes_out,
            dash(self.authority),
            dash(self.route),
            dash(self.cluster),
            dash(&upstream),
            dash(self.request_id),
        );
        line.into_bytes()
    }
}

/// Envoy's response flag for a reason, where it has one.
fn response_flags(code: &str) -> &'static str {
    match code {
        "no_route" | "no_host" => "NR",
        "no_endpoints" => "UH",
        "upstream_connect_failed"
        | "upstream_connect_timeout"
        | "upstream_tls_failed"
        | "upstream_refused_certificate"
        | "upstream_address_refused"
        | "upstream_dns"
        | "identity_pending"
        | "identity_unavailable"
        | "identity_expired" => "UF",
        "upstream_timeout" => "UT",
        "upstream_reset" => "UC",
        "upstream_overflow" => "UO",
        "upstream_protocol" => "UPE",
        "downstream_reset" => "DC",
        "stream_idle_timeout" => "SI",
        "bad_framing" | "bad_request" | "bad_host" | "bad_path" | "headers_too_large" => "DPE",
        // The upstream's certificate failed a rule: identity's codes. A client's fails before there is a request.
        code if code.starts_with("peer_") => "UF",
        _ => "",
    }
}

/// A JSON object being written.
struct Line(String);

impl Line {
    fn key(&mut self, key: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        // Writing to a String cannot fail.
        let _a_string_takes_everything = write!(self.0, "\"{key}\":");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        match serde_json::to_string(value) {
            Ok(quoted) => self.0.push_str(&quoted),
            Err(_cannot_happen) => self.0.push_str("\"\""),
        }
    }

    fn number(&mut self, key: &str, value: u128) {
        self.key(key);
        let _a_string_takes_everything = write!(self.0, "{value}");
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push_str("}\n");
        self.0.into_bytes()
    }
}

fn id(id: Option<&SpiffeId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Control characters would let a client forge lines.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '"' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::response_flags;

    #[test]
    fn an_upstream_that_fails_verification_is_an_upstream_failure() {
        let codes = identity::VerifyFailure::CODES.iter().chain(identity::Denied::CODES);
        for code in codes {
            assert_eq!(response_flags(code), "UF", "{code}");
        }
        assert_eq!(response_flags("ok"), "");
    }
}
