//! The one mapping of errors and answers to responses, for HTTP and for gRPC.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{Error, Reason, message::Answer};

/// An answer for an error.
pub(super) fn of_error(error: &Error) -> Answer {
    let mut answer = Answer::new(error.status(), error.reason());
    let what = match answer.status {
        StatusCode::GATEWAY_TIMEOUT => "upstream request timeout: ",
        StatusCode::SERVICE_UNAVAILABLE => "no healthy upstream: ",
        StatusCode::BAD_GATEWAY => "upstream protocol error: ",
        _ => "",
    };
    answer.body = Bytes::from(format!("{what}{}\n", answer.reason.code()));
    if answer.reason == Reason::OVERFLOW {
        let name = http::HeaderName::from_static("x-envoy-overloaded");
        answer.headers.push((name, HeaderValue::from_static("true")));
    }
    answer
}

/// The response for an answer; a refusal without words of its own says its reason code, and no more. A gRPC client gets a
/// trailers-only answer instead of a status it does not read.
pub(super) fn response(mut answer: Answer, grpc: bool) -> (Response<()>, Bytes) {
    if answer.body.is_empty() && (answer.status.is_client_error() || answer.status.is_server_error()) {
        answer.body = Bytes::from(format!("{}\n", answer.reason.code()));
    }
    let mut response = Response::new(());
    let headers = response.headers_mut();
    for (name, value) in answer.headers {
        headers.append(name, value);
    }
    if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(answer.status)));
        if let Ok(message) = HeaderValue::from_str(answer.reason.code()) {
            headers.insert("grpc-message", message);
        }
        return (response, Bytes::new());
    }
    if !answer.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    *response.status_mut() = answer.status;
    (response, answer.body)
}

/// Whether a content type is gRPC's: `application/grpc` alone, with a suffix or with parameters. gRPC-Web is another protocol,
/// whose clients read the HTTP status.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    let (head, rest) = content_type.split_at(content_type.len().min(b"application/grpc".len()));
    head.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// gRPC's own mapping of HTTP statuses (grpc: doc/http-grpc-status-mapping.md); a timeout is `DEADLINE_EXCEEDED`, as in Envoy.
pub(super) fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 => 14,
        504 => 4,
        _ => 2,
    }
}
