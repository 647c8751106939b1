//! The address of a Workload API: `unix:` and `tcp:` URIs, read as strictly as the standard asks (W-3, W-4).

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Where a Workload API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadEndpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// An IP address and port.
    Tcp(SocketAddr),
}

impl fmt::Display for WorkloadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(addr) => write!(f, "tcp://{addr}"),
        }
    }
}

impl FromStr for WorkloadEndpoint {
    type Err = String;

    fn from_str(uri: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("`{uri}` is not a Workload API address: {why}; write unix:///path or tcp://IP:PORT")
        };
        if uri.contains(['?', '#']) {
            return Err(wrong("it has a query or a fragment"));
        }
        if let Some(rest) = uri.strip_prefix("tcp:") {
            let addr = rest.strip_prefix("//").ok_or_else(|| wrong("`//` is missing"))?;
            return addr
                .parse()
                .map(Self::Tcp)
                .map_err(|_not_ip_and_port| wrong("only IP:PORT may follow, no name and no path"));
        }
        let rest = uri.strip_prefix("unix:").ok_or_else(|| wrong("the scheme is neither unix nor tcp"))?;
        let path = match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            Some(path) => return Err(wrong(&format!("`unix://` wants a third slash: unix:///{path}"))),
            None => rest,
        };
        if !path.starts_with('/') || path.len() < 2 {
            return Err(wrong("the path is not absolute"));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w4_addresses() {
        let unix = |path: &str| Ok(WorkloadEndpoint::Unix(PathBuf::from(path)));
        assert_eq!("unix:///run/api.sock".parse(), unix("/run/api.sock"));
        assert_eq!("unix:/run/api.sock".parse(), unix("/run/api.sock"));
        assert_eq!("unix:///tmp/a b/%20.sock".parse(), unix("/tmp/a b/%20.sock"));
        assert_eq!(
            "tcp://127.0.0.1:8000".parse(),
            Ok(WorkloadEndpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 8000))))
        );
        assert!("tcp://[::1]:8000".parse::<WorkloadEndpoint>().is_ok());
        for bad in [
            "",
            "unix:",
            "unix:///",
            "unix://host/x",
            "unix:rel",
            "tcp://localhost:1",
            "tcp://1.2.3.4:1/x",
            "tcp://1.2.3.4",
            "tcp:1.2.3.4:1",
            "tcp://u@1.2.3.4:1",
            "http://1.2.3.4:1",
            "unix:///x?y",
            "unix:///x#y",
            "/run/api.sock",
        ] {
            assert!(bad.parse::<WorkloadEndpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_slashes_get_a_hint() {
        let error = "unix://tmp/x".parse::<WorkloadEndpoint>().expect_err("two slashes");
        assert!(error.contains("unix:///tmp/x"), "{error}");
    }
}
