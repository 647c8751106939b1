//! What the dev authority issues: shape and checks of its one file (`docs/contract.md`). YAML is read by the programs.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::{TrustDomain, id::parse_peer_id};

/// Shortest lifetime of an SVID: renewal comes at half of it.
const MIN_TTL: Duration = Duration::from_secs(1);

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entries {
    /// The trust domain, without scheme.
    pub trust_domain: String,
    /// The CA that signs from now on.
    #[serde(default = "first")]
    pub ca: u32,
    /// CAs in the bundle; default: the one that signs.
    #[serde(default)]
    pub trusted_cas: Vec<u32>,
    /// Foreign bundles: trust domain to PEM file.
    #[serde(default)]
    pub federated: BTreeMap<String, PathBuf>,
    /// Workloads.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Its socket, relative to the state folder.
    pub socket: String,
    /// Lifetime of its SVIDs as text: `60s`; default 1 h.
    #[serde(default = "hour")]
    pub ttl: String,
    /// The hint given with the SVID.
    #[serde(default)]
    pub hint: String,
    /// Conditions on the caller: `unix:uid:1000`, `unix:gid:1000`; all must hold.
    #[serde(default)]
    pub selectors: Vec<String>,
}

fn check_domain(field: &str, name: &str) -> Result<(), String> {
    match TrustDomain::new(name) {
        Err(error) => Err(format!("{field} `{name}`: {error}")),
        Ok(domain) if domain.as_str() != name => {
            Err(format!("{field} `{name}`: write the name alone, in lower case: {domain}"))
        }
        Ok(_) => Ok(()),
    }
}

fn first() -> u32 {
    1
}

fn hour() -> String {
    "1h".to_owned()
}

impl Entries {
    /// One entry for each of these IDs, socket `<last segment>.sock`.
    pub fn simple(trust_domain: &str, ids: &[&str], ttl: &str) -> Self {
        let entry = |id: &&str| Entry {
            spiffe_id: (*id).to_owned(),
            socket: format!("{}.sock", id.rsplit('/').next().unwrap_or("workload")),
            ttl: ttl.to_owned(),
            hint: String::new(),
            selectors: Vec::new(),
        };
        Self {
            trust_domain: trust_domain.to_owned(),
            ca: 1,
            trusted_cas: vec![1],
            federated: BTreeMap::new(),
            entries: ids.iter().map(entry).collect(),
        }
    }

    /// CAs in the bundle.
    pub fn trusted(&self) -> Vec<u32> {
        if self.trusted_cas.is_empty() { vec![self.ca] } else { self.trusted_cas.clone() }
    }

    /// Everything that cannot be meant, named.
    pub fn check(&self) -> Result<(), String> {
        check_domain("trust_domain", &self.trust_domain)?;
        for domain in self.federated.keys() {
            check_domain("federated", domain)?;
            if *domain == self.trust_domain {
                return Err(format!("federated `{domain}`: is our own trust domain"));
            }
        }
        for entry in &self.entries {
            let wrong = |why: String| format!("entry {}: {why}", entry.spiffe_id);
            let id = parse_peer_id(&entry.spiffe_id).map_err(|error| wrong(error.to_string()))?;
            if id.trust_domain_name() != self.trust_domain {
                return Err(wrong(format!("is not in trust domain {}", self.trust_domain)));
            }
            if entry.socket.is_empty() || entry.socket.contains('/') || entry.socket.starts_with('.') {
                return Err(wrong(format!("socket `{}` must be a plain file name", entry.socket)));
            }
            if entry.lifetime().is_none_or(|ttl| ttl < MIN_TTL) {
                return Err(wrong(format!(
                    "ttl `{}` is not a duration of at least 1s; write 60s, 10m or 1h",
                    entry.ttl
                )));
            }
            if let Some(selector) =
                entry.selectors.iter().find(|selector| Selector::parse(selector).is_none())
            {
                return Err(wrong(format!("selector `{selector}` is not unix:uid:N or unix:gid:N")));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// `ttl` as a duration.
    pub fn lifetime(&self) -> Option<Duration> {
        let digits = self.ttl.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.ttl.len());
        let (number, unit) = self.ttl.split_at(digits);
        let number: u64 = number.parse().ok()?;
        match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        }
    }

    /// Whether a caller may have this identity. Without a selector the socket's mode decides.
    pub(crate) fn admits(&self, caller: Option<(u32, u32)>) -> bool {
        self.selectors.iter().all(|selector| match (Selector::parse(selector), caller) {
            (Some(Selector::Uid(uid)), Some((caller, _))) => uid == caller,
            (Some(Selector::Gid(gid)), Some((_, caller))) => gid == caller,
            _ => false,
        })
    }
}

enum Selector {
    Uid(u32),
    Gid(u32),
}

impl Selector {
    fn parse(text: &str) -> Option<Self> {
        let (kind, number) = text.strip_prefix("unix:")?.split_once(':')?;
        let number = number.parse().ok()?;
        match kind {
            "uid" => Some(Self::Uid(number)),
            "gid" => Some(Self::Gid(number)),
            _ => None,
        }
    }
}
