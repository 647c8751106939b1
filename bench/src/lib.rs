//! Configurations and requests of the benches: many Mappings in the shapes that people have, and the requests that hit them.
//!
//! Not a benchmark by itself: `decision.sh` and `check.sh` beside this crate measure, `examples/` are the programs they run.

mod table;

use std::str::FromStr;

pub use table::{Parsed, connection, table, table_of};

/// A shape of a large configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One Host and one cluster, a prefix for each Mapping.
    Plain,
    /// One Host, a prefix and a cluster for each Mapping.
    Prefixes,
    /// One Host, a hostname for each Mapping and the same prefix for all: the usual one without Host resources.
    Hostnames,
    /// One Host, a hostname and a prefix for each Mapping; a fifth of the requests has the name of one and the path of another.
    Random,
    /// One Host, a hostname glob for each Mapping and the same prefix for all.
    Globs,
    /// A Host resource for each Mapping.
    Hosts,
    /// A Host resource with a glob for each Mapping.
    HostGlobs,
    /// One Host, a pattern for each Mapping that starts in its own way.
    Patterns,
    /// The same, but what is their own stands in the middle.
    InnerPatterns,
    /// One Host, a value of one header for each Mapping and the same prefix for all.
    Headers,
    /// One Host, a value of one query parameter for each Mapping and the same prefix for all.
    Parameters,
    /// Hostnames, prefixes, exact paths, methods, headers and weights side by side.
    Mixed,
    /// One Host, a prefix, a cluster and a TLSContext for each Mapping.
    Contexts,
}

/// A request, and whether a Mapping takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Host and port.
    pub authority: String,
    /// Path.
    pub path: String,
    /// Query without its question mark.
    pub query: Option<String>,
    /// One header field: name and value.
    pub header: Option<(&'static str, String)>,
    /// Some Mapping takes it.
    pub taken: bool,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 13] = [
        Self::Plain,
        Self::Prefixes,
        Self::Hostnames,
        Self::Random,
        Self::Globs,
        Self::Hosts,
        Self::HostGlobs,
        Self::Patterns,
        Self::InnerPatterns,
        Self::Headers,
        Self::Parameters,
        Self::Mixed,
        Self::Contexts,
    ];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Prefixes => "prefixes",
            Self::Hostnames => "hostnames",
            Self::Random => "random",
            Self::Globs => "globs",
            Self::Hosts => "hosts",
            Self::HostGlobs => "host-globs",
            Self::Patterns => "patterns",
            Self::InnerPatterns => "inner-patterns",
            Self::Headers => "headers",
            Self::Parameters => "parameters",
            Self::Mixed => "mixed",
            Self::Contexts => "contexts",
        }
    }

    /// Manifests with `count` Mappings.
    pub fn manifests(self, count: usize) -> String {
        let mut out = String::new();
        for index in 0..count {
            out.push_str(&self.mapping(index));
            match self {
                Self::Hosts => out.push_str(&host(index, "")),
                Self::HostGlobs => out.push_str(&host(index, "*.")),
                Self::Contexts => out.push_str(&context(index)),
                _ => {}
            }
        }
        out
    }

    fn mapping(self, index: usize) -> String {
        let rule = match self {
            Self::Plain | Self::Prefixes => format!("  hostname: \"*\"\n  prefix: /service-{index:05}/\n"),
            Self::Hostnames | Self::Hosts => format!("  hostname: h{index:05}.example.com\n  prefix: /\n"),
            Self::Random => format!("  hostname: h{index:05}.example.com\n  prefix: /service-{index:05}/\n"),
            Self::Globs | Self::HostGlobs => {
                format!("  hostname: \"*.h{index:05}.example.com\"\n  prefix: /\n")
            }
            Self::Patterns => {
                format!("  hostname: \"*\"\n  prefix: /service-{index:05}/[0-9]+\n  prefix_regex: true\n")
            }
            Self::InnerPatterns => {
                format!("  hostname: \"*\"\n  prefix: /[a-z]+/s{index:05}/orders/.*\n  prefix_regex: true\n")
            }
            Self::Headers => {
                format!("  hostname: \"*\"\n  prefix: /\n  headers:\n    x-tenant: t{index:05}\n")
            }
            Self::Parameters => {
                format!("  hostname: \"*\"\n  prefix: /\n  query_parameters:\n    tenant: t{index:05}\n")
            }
            Self::Mixed => mixed(index),
            Self::Contexts => {
                format!("  hostname: \"*\"\n  prefix: /service-{index:05}/\n  tls: context-{index:05}\n")
            }
        };
        let number = if self == Self::Plain { 0 } else { index };
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: m{index:05}\nspec:\n{rule}  \
             service: service-{number:05}.shop:8080\n"
        )
    }

    /// The request with number `turn` to a table of `count` Mappings: spread over the whole table, in no order.
    pub fn request(self, turn: usize, count: usize) -> Request {
        let index = scattered(turn) % count.max(1);
        let mut request = Request {
            authority: "shop.example.com".to_owned(),
            path: "/orders/17".to_owned(),
            query: None,
            header: None,
            taken: true,
        };
        match self {
            Self::Plain | Self::Prefixes | Self::Contexts => {
                request.path = format!("/service-{index:05}/orders/17");
            }
            Self::Hostnames | Self::Hosts => request.authority = format!("h{index:05}.example.com"),
            Self::Random => {
                request.taken = turn % 5 != 4;
                let other = if request.taken { index } else { (index + 1) % count.max(2) };
                request.authority = format!("h{index:05}.example.com");
                request.path = format!("/service-{other:05}/orders/17");
            }
            Self::Globs | Self::HostGlobs => request.authority = format!("shop.h{index:05}.example.com"),
            Self::Patterns => request.path = format!("/service-{index:05}/17"),
            Self::InnerPatterns => request.path = format!("/shop/s{index:05}/orders/17"),
            Self::Headers => request.header = Some(("x-tenant", format!("t{index:05}"))),
            Self::Parameters => request.query = Some(format!("page=1&tenant=t{index:05}")),
            Self::Mixed => {
                request.authority = format!("h{:03}.example.com", index / 5 % 200);
                request.path = format!("/service-{:05}/orders/17", index / 5);
            }
        }
        request
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|shape| shape.name() == name)
            .ok_or_else(|| format!("`{name}` is none of {}", names()))
    }
}

/// A fixed sequence without a visible order: the finalizer of `SplitMix64`.
fn scattered(turn: usize) -> usize {
    let mut z = (turn as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    usize::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default()
}

/// Five Mappings share a hostname and a prefix and differ in method, header, weight or kind of path.
fn mixed(index: usize) -> String {
    let (group, kind) = (index / 5, index % 5);
    let hostname = format!("  hostname: h{:03}.example.com\n", group % 200);
    let prefix = format!("  prefix: /service-{group:05}/\n");
    let rest = match kind {
        0 => "  method: POST\n".to_owned(),
        1 => "  headers:\n    x-tenant: \"blue\"\n".to_owned(),
        2 => "  weight: 20\n".to_owned(),
        3 => "  rewrite: \"\"\n".to_owned(),
        _ => return format!("{hostname}  prefix: /service-{group:05}/health\n  prefix_exact: true\n"),
    };
    format!("{hostname}{prefix}{rest}")
}

fn host(index: usize, glob: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata:\n  name: h{index:05}\nspec:\n  \
         hostname: \"{glob}h{index:05}.example.com\"\n  requestPolicy:\n    insecure:\n      action: Route\n"
    )
}

fn context(index: usize) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata:\n  name: context-{index:05}\nspec:\n  \
         hosts: []\n  sni: service-{index:05}.example.com\n  min_tls_version: v1.2\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_name_of_its_own() {
        for shape in Shape::ALL {
            assert_eq!(shape.name().parse(), Ok(shape));
        }
        assert!("none".parse::<Shape>().is_err());
    }

    #[test]
    fn some_random_requests_hit_and_some_miss() {
        let taken = (0..100).filter(|turn| Shape::Random.request(*turn, 10).taken).count();
        assert_eq!(taken, 80);
    }
}
