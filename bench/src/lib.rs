//! Configurations and requests of the benches: many Mappings in the shapes that people have, and the requests that hit them.
//!
//! Not a benchmark by itself: `decision.sh` and `check.sh` beside this crate measure, `examples/` are the programs they run.

use std::str::FromStr;

/// A shape of a large configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One Host, a prefix for each Mapping.
    Prefixes,
    /// One Host, a hostname for each Mapping and the same prefix for all: the usual one without Host resources.
    Hostnames,
    /// A Host resource for each Mapping.
    Hosts,
    /// One Host, a pattern for each Mapping.
    Patterns,
    /// Hostnames, prefixes, exact paths, methods, headers and weights side by side.
    Mixed,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 5] = [Self::Prefixes, Self::Hostnames, Self::Hosts, Self::Patterns, Self::Mixed];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefixes => "prefixes",
            Self::Hostnames => "hostnames",
            Self::Hosts => "hosts",
            Self::Patterns => "patterns",
            Self::Mixed => "mixed",
        }
    }

    /// Manifests with `count` Mappings.
    pub fn manifests(self, count: usize) -> String {
        let mut out = String::new();
        for index in 0..count {
            out.push_str(&self.mapping(index));
            if self == Self::Hosts {
                out.push_str(&host(index));
            }
        }
        out
    }

    fn mapping(self, index: usize) -> String {
        let rule = match self {
            Self::Prefixes => format!("  hostname: \"*\"\n  prefix: /service-{index:05}/\n"),
            Self::Hostnames | Self::Hosts => format!("  hostname: h{index:05}.example.com\n  prefix: /\n"),
            Self::Patterns => {
                format!("  hostname: \"*\"\n  prefix: /service-{index:05}/[0-9]+\n  prefix_regex: true\n")
            }
            Self::Mixed => mixed(index),
        };
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: m{index:05}\nspec:\n{rule}  \
             service: service-{index:05}.shop:8080\n"
        )
    }

    /// Authority and path of a request that the Mapping with this number takes.
    pub fn request(self, index: usize) -> (String, String) {
        match self {
            Self::Prefixes => ("shop.example.com".to_owned(), format!("/service-{index:05}/orders/17")),
            Self::Hostnames | Self::Hosts => (format!("h{index:05}.example.com"), "/orders/17".to_owned()),
            Self::Patterns => ("shop.example.com".to_owned(), format!("/service-{index:05}/17")),
            Self::Mixed => (
                format!("h{:03}.example.com", index / 5 % 200),
                format!("/service-{:05}/orders/17", index / 5),
            ),
        }
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

fn host(index: usize) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata:\n  name: h{index:05}\nspec:\n  \
         hostname: h{index:05}.example.com\n  requestPolicy:\n    insecure:\n      action: Route\n"
    )
}
