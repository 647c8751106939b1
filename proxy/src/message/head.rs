//! The borrowed head that policy sees, the same over hyper's header map and over raw bytes.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderMap;

use crate::ConnMeta;

/// The scheme of a request as the client used it (after `l7Depth` was applied).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What policy sees of a request: borrowed and read-only.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port as the client sent them, lower case.
    pub authority: &'a str,
    /// The path, normalised once: what is routed is what is forwarded.
    pub path: &'a str,
    /// The query without its question mark.
    pub query: Option<&'a str>,
    /// The header fields.
    pub fields: Fields<'a>,
    /// The connection.
    pub conn: &'a ConnMeta,
}

/// Header fields; names compare without case.
#[derive(Clone, Copy, Debug)]
pub enum Fields<'a> {
    /// hyper's typed map.
    Typed(&'a HeaderMap),
    /// Raw bytes and ranges.
    Raw(&'a RawFields),
}

/// Frozen bytes of a head with the ranges of its fields, so that an async filter may keep it while the body arrives.
#[derive(Clone, Debug, Default)]
pub struct RawFields {
    bytes: Bytes,
    /// Name and value of each field.
    ranges: Vec<(Range<u32>, Range<u32>)>,
}

impl RawFields {
    /// Fields over `bytes`; ranges that do not lie inside are dropped.
    pub fn new(bytes: Bytes, mut ranges: Vec<(Range<u32>, Range<u32>)>) -> Self {
        let len = bytes.len();
        let inside = |r: &Range<u32>| r.start <= r.end && r.end as usize <= len;
        ranges.retain(|(name, value)| inside(name) && inside(value));
        Self { bytes, ranges }
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.ranges.iter().map(|(name, value)| (self.slice(name), self.slice(value)))
    }
}

impl<'a> Fields<'a> {
    /// The first value of a field.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        match self {
            Self::Typed(map) => map.get(name).map(http::HeaderValue::as_bytes),
            Self::Raw(raw) => {
                raw.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
            }
        }
    }

    /// All values of a field, in order, passed to `each` until it answers `false`.
    pub fn all(self, name: &str, mut each: impl FnMut(&'a [u8]) -> bool) {
        match self {
            Self::Typed(map) => {
                for value in map.get_all(name) {
                    if !each(value.as_bytes()) {
                        return;
                    }
                }
            }
            Self::Raw(raw) => {
                for (n, value) in raw.iter() {
                    if n.eq_ignore_ascii_case(name.as_bytes()) && !each(value) {
                        return;
                    }
                }
            }
        }
    }

    /// Every field, in order of arrival within a name.
    pub fn each(self, mut each: impl FnMut(&'a [u8], &'a [u8])) {
        match self {
            Self::Typed(map) => {
                map.iter().for_each(|(name, value)| each(name.as_str().as_bytes(), value.as_bytes()));
            }
            Self::Raw(raw) => raw.iter().for_each(|(name, value)| each(name, value)),
        }
    }
}
