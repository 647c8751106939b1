//! Values that people write on the command line: durations, sizes, `--resolve`, sockets of the Workload API.

use identity::source::WorkloadEndpoint;
use ingress::cli::{HumanDuration, HumanSize, ResolveRule};

/// One value.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(HumanDuration(read)) = text.parse() {
        let again = format!("{}s{}ms", read.as_secs(), read.subsec_millis());
        assert_eq!(again.parse(), Ok(HumanDuration(read)), "{text}");
    }
    if let Ok(HumanSize(read)) = text.parse() {
        assert_eq!(read.to_string().parse(), Ok(HumanSize(read)), "{text}");
    }
    if let Ok(rule) = text.parse::<ResolveRule>() {
        assert!(!rule.addresses.is_empty() && !rule.host.is_empty(), "{text}");
        let host = if rule.host.contains(':') { format!("[{}]", rule.host) } else { rule.host.clone() };
        let port = rule.port.map_or(String::new(), |port| format!(":{port}"));
        let addresses: Vec<_> = rule.addresses.iter().map(ToString::to_string).collect();
        let again = format!("{host}{port}={}", addresses.join(","));
        assert_eq!(again.parse(), Ok(rule), "{text}");
    }
    let _endpoint_or_not = text.parse::<WorkloadEndpoint>();
    if let Some(name) = identity::server_name(text) {
        assert!(identity::server_name(&name.to_str()).is_some_and(|again| again == name), "{text}");
    }
}
