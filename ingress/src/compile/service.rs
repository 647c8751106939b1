//! The `service` text: `[scheme://]host[:port]` (emissary.md 1.1).

use std::net::Ipv6Addr;

/// A service as written, before TLS and the default port are decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceText {
    /// The scheme, lower case, if one is written.
    pub(crate) scheme: Option<Scheme>,
    /// Lower case; IPv6 without brackets.
    pub(crate) host: String,
    /// The port, if one is written (0 counts as none).
    pub(crate) port: Option<u16>,
}

/// Schemes that can be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl ServiceText {
    /// Reads a service; the error says what is wrong. Path, query, fragment and user information are dropped, as Emissary
    /// does it in silence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(parse_scheme(scheme)?), rest),
            None => (None, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (host, tail) =
                rest.split_once(']').ok_or_else(|| format!("`{text}` has no closing bracket"))?;
            let plain = host.split("%25").next().unwrap_or_default();
            plain.parse::<Ipv6Addr>().map_err(|_not_ipv6| format!("`[{host}]` is not an IPv6 address"))?;
            let port = match tail.strip_prefix(':') {
                Some(port) => Some(port),
                None if tail.is_empty() => None,
                None => return Err(format!("`{text}` has something behind its bracket that is no port")),
            };
            (host, port)
        } else {
            match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            }
        };
        if host.is_empty() {
            return Err(format!("`{text}` has no host"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !host.chars().all(allowed) {
            return Err(format!("`{host}` is not a host name"));
        }
        let port = port
            .map(|port| port.parse::<u16>().map_err(|_no_port| format!("`{port}` is not a port")))
            .transpose()?;
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port: port.filter(|port| *port != 0) })
    }

    /// The host with the namespace of the Mapping, where a name is bare.
    pub(crate) fn qualified(&self, namespace: &str, own: &str) -> String {
        let bare = !self.host.contains(['.', ':']) && self.host != "localhost";
        if bare && namespace != own { format!("{}.{namespace}", self.host) } else { self.host.clone() }
    }

    /// Host and port as they stand in a URL.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

fn parse_scheme(scheme: &str) -> Result<Scheme, String> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        _ => Err(format!(
            "`{scheme}://` is not a scheme that can be meant; write http:// or https://, and `grpc: true` for gRPC"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_service() {
        let table: [(&str, Option<Scheme>, &str, Option<u16>); 17] = [
            ("svc", None, "svc", None),
            ("svc:8080", None, "svc", Some(8080)),
            ("http://svc", Some(Scheme::Http), "svc", None),
            ("https://svc", Some(Scheme::Https), "svc", None),
            ("https://svc:8443", Some(Scheme::Https), "svc", Some(8443)),
            ("svc:443", None, "svc", Some(443)),
            ("svc.ns.svc.cluster.local", None, "svc.ns.svc.cluster.local", None),
            ("10.0.0.1:80", None, "10.0.0.1", Some(80)),
            ("[fe80::1]", None, "fe80::1", None),
            ("https://[::1]", Some(Scheme::Https), "::1", None),
            ("[fe80::1%25eth0]:80", None, "fe80::1%25eth0", Some(80)),
            ("HTTPS://Svc", Some(Scheme::Https), "svc", None),
            ("svc/", None, "svc", None),
            ("https://svc/path?q=1", Some(Scheme::Https), "svc", None),
            ("https://user:pw@svc", Some(Scheme::Https), "svc", None),
            ("svc:0", None, "svc", None),
            ("_svc", None, "_svc", None),
        ];
        for (text, scheme, host, port) in table {
            assert_eq!(
                ServiceText::parse(text),
                Ok(ServiceText { scheme, host: host.to_owned(), port }),
                "{text}"
            );
        }
        for bad in [
            "ftp://svc",
            "grpc://svc",
            "h2c://svc",
            "svc:abc",
            "svc:80.invalid",
            "svc:70000",
            "svc:-1",
            "svc:443:443",
            "::1",
            "[::1",
            "",
            "https://",
            "[x]",
            "a b",
        ] {
            assert!(ServiceText::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bare_names_get_the_namespace_of_their_mapping() {
        let qualified = |text: &str| ServiceText::parse(text).expect(text).qualified("shop", "default");
        assert_eq!(qualified("svc"), "svc.shop");
        assert_eq!(qualified("svc.ns"), "svc.ns");
        assert_eq!(qualified("svc.ns."), "svc.ns.");
        assert_eq!(qualified("localhost"), "localhost");
        assert_eq!(qualified("[::1]"), "::1");
        assert_eq!(ServiceText::parse("svc").expect("svc").qualified("default", "default"), "svc");
    }
}
