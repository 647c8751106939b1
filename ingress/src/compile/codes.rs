//! The codes of this crate's findings, for `docs/reasons.md`.

/// Every code that compiling can give by itself. Problems of key material carry the keyring's and identity's codes.
pub const CODES: &[&str] = &[
    "address_rules_unsupported",
    "auth_unsupported",
    "bad_regex",
    "bad_rewrite",
    "bad_service",
    "bad_spiffe_id",
    "ca_missing",
    "duplicate_host",
    "duplicate_listener",
    "duplicate_object",
    "group_conflict",
    "host_no_certificate",
    "mapping_unattached",
    "missing_prefix",
    "no_effect",
    "no_spiffe_socket",
    "secret_no_certificate",
    "service_port_missing",
    "tcp_conflict",
    "tls_context_elsewhere",
    "tls_context_missing",
    "tls_over_http",
    "tls_settings",
    "unknown_cipher",
    "unknown_field",
    "unknown_value",
    "unknown_version",
    "unreadable",
    "unsupported_field",
    "unsupported_kind",
    "upstream_not_verified",
    "weights_exceed_100",
    "wrong_type",
];

#[cfg(test)]
mod tests {
    use super::CODES;

    /// A code is a text of small letters with an underscore, handed to a finding.
    #[test]
    fn every_code_in_the_sources_is_listed() {
        let sources = [
            include_str!("addresses.rs"),
            include_str!("attach.rs"),
            include_str!("context.rs"),
            include_str!("edits.rs"),
            include_str!("group.rs"),
            include_str!("guard.rs"),
            include_str!("host.rs"),
            include_str!("listener.rs"),
            include_str!("mapping.rs"),
            include_str!("matching.rs"),
            include_str!("mod.rs"),
            include_str!("module.rs"),
            include_str!("origination.rs"),
            include_str!("tcp.rs"),
            include_str!("../kind/reader.rs"),
        ];
        let text = sources.concat();
        for code in CODES {
            assert!(text.contains(&format!("\"{code}\"")), "{code} is listed and never given");
        }
        let given = |code: &str| {
            let is_code = code.contains('_') && code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(!is_code || CODES.contains(&code), "{code} is given and not listed");
        };
        for marker in ["Severity::Error, \"", "Severity::Warning, \"", "Severity::Notice, \"", "code: \""] {
            text.split(marker).skip(1).for_each(|rest| given(rest.split('"').next().unwrap_or_default()));
        }
        for call in text.split(".broken(").skip(1) {
            given(call.split(", ").nth(1).unwrap_or_default().trim_matches('"'));
        }
        assert!(CODES.is_sorted());
    }
}
