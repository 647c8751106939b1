//! Step 7, prepare: from the client's request to the upstream's, and from the upstream's head to the client's.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use hyper::body::Incoming;

use super::{
    fields,
    upgrade::{Switch, To},
};
use crate::{
    ConnMeta, Error,
    message::{Edits, HeaderEdit, ReqBody, Scheme, hygiene},
    route::HttpPolicy,
};

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What is known of a request when it is prepared.
pub(super) struct Target<'a> {
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) scheme: Scheme,
    pub(super) conn: &'a ConnMeta,
    /// The client behind trusted proxies.
    pub(super) client: IpAddr,
    pub(super) policy: &'a HttpPolicy,
    pub(super) edits: &'a Edits,
    /// What the upstream may switch to.
    pub(super) switch: Option<&'a Switch>,
}

/// The request for the upstream: hop-by-hop fields out, client-sent controls out, ours in, edits applied.
pub(super) fn upstream_request(
    request: Request<Incoming>,
    body: impl FnOnce(Incoming) -> ReqBody,
    target: &Target<'_>,
) -> Result<Request<ReqBody>, Error> {
    let (parts, incoming) = request.into_parts();
    let mut headers = parts.headers;
    hygiene::strip_hop_by_hop(&mut headers);
    hygiene::normalise_length(&mut headers);
    headers.remove(header::EXPECT);
    let (asked, rewritten) =
        target.edits.path.target(target.path, target.query).map_err(|message| Error::Rewrite { message })?;
    if rewritten && !target.policy.suppress_envoy_headers {
        let original = joined(target.path, target.query);
        insert(&mut headers, ORIGINAL_PATH, &original);
    }
    let sender = fields::Sender { peer: target.conn.client().ip(), client: target.client };
    fields::set_forwarded(&mut headers, sender, target.scheme, target.authority, target.policy);
    apply(&mut headers, &target.edits.remove_request, &target.edits.add_request);
    match &target.edits.authority {
        Some(authority) => headers.insert(header::HOST, authority.clone()),
        None => {
            HeaderValue::from_str(target.authority).ok().and_then(|host| headers.insert(header::HOST, host))
        }
    };
    let mut uri = Uri::from(asked);
    if let Some(switch) = target.switch {
        switch.ask(&mut headers);
        if matches!(switch.to, To::Tunnel) {
            uri = authority_form(&headers)?;
        }
    }
    let mut out = Request::new(body(incoming));
    *out.method_mut() = parts.method;
    *out.uri_mut() = uri;
    *out.headers_mut() = headers;
    Ok(out)
}

/// The target of CONNECT: the host that is sent.
fn authority_form(headers: &HeaderMap) -> Result<Uri, Error> {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    Uri::builder().authority(host).build().map_err(|error| Error::Rewrite { message: error.to_string() })
}

/// The response's fields for the client.
pub(super) fn response_fields(headers: &mut HeaderMap, edits: &Edits, policy: &HttpPolicy) {
    hygiene::strip_hop_by_hop(headers);
    hygiene::normalise_length(headers);
    apply(headers, &edits.remove_response, &edits.add_response);
    headers.insert(header::SERVER, server_name(policy));
}

/// The `server` field.
pub(super) fn server_name(policy: &HttpPolicy) -> HeaderValue {
    policy.server_name.clone().unwrap_or(HeaderValue::from_static("selvedge"))
}

/// Removal before addition, as Envoy does.
fn apply(headers: &mut HeaderMap, remove: &[HeaderName], add: &[HeaderEdit]) {
    for name in remove {
        headers.remove(name);
    }
    for edit in add {
        if edit.append {
            headers.append(edit.name.clone(), edit.value.clone());
        } else {
            headers.insert(edit.name.clone(), edit.value.clone());
        }
    }
}

fn joined(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
