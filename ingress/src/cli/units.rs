//! Values with units as people type them: durations, sizes, `--resolve` rules.

use std::{net::SocketAddr, str::FromStr, time::Duration};

/// A duration: `500ms`, `5s`, `1m30s`, `1h`, or `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration; write 500ms, 5s, 1m30s or 1h");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let number: u64 = number.parse().map_err(|_not_a_number| wrong())?;
            let part = match unit {
                "ms" => Duration::from_millis(number),
                "s" => Duration::from_secs(number),
                "m" => Duration::from_secs(number.checked_mul(60).ok_or_else(wrong)?),
                "h" => Duration::from_secs(number.checked_mul(3600).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            };
            total = total.checked_add(part).ok_or_else(wrong)?;
            rest = tail;
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(total)) }
    }
}

/// A size in bytes: `64KiB`, `1MiB`, `512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanSize(pub usize);

impl FromStr for HumanSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size; write 512, 64KiB or 1MiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: usize = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: usize = number.parse().map_err(|_not_a_number| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

/// `HOST[:PORT]=ADDR:PORT[,ADDR:PORT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveRule {
    /// Lower case; IPv6 without brackets.
    pub host: String,
    /// Only this port; `None`: every port.
    pub port: Option<u16>,
    /// Where to go instead.
    pub addresses: Vec<SocketAddr>,
}

impl FromStr for ResolveRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("`{text}`: {why}; write HOST[:PORT]=ADDR:PORT[,ADDR:PORT], as quote:80=127.0.0.1:9000")
        };
        let (name, addresses) = text.split_once('=').ok_or_else(|| wrong("there is no `=`"))?;
        let (host, port) =
            split_host(name).ok_or_else(|| wrong("the part before `=` is not HOST or HOST:PORT"))?;
        let addresses = addresses
            .split(',')
            .map(|addr| addr.parse().map_err(|_not_an_address| wrong(&format!("`{addr}` is not ADDR:PORT"))))
            .collect::<Result<Vec<SocketAddr>, String>>()?;
        Ok(Self { host: host.to_ascii_lowercase(), port, addresses })
    }
}

/// Host without brackets, and the port if one is written.
fn split_host(name: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = name.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        let port = match tail.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None if tail.is_empty() => None,
            None => return None,
        };
        return host.parse::<std::net::Ipv6Addr>().ok().map(|_valid| (host, port));
    }
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (name, None),
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |text: &str| text.parse::<HumanDuration>().map(|d| d.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("0"), Ok(0));
        assert_eq!(ms("1h"), Ok(3_600_000));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("64KiB".parse::<HumanSize>(), Ok(HumanSize(65536)));
        assert_eq!("512".parse::<HumanSize>(), Ok(HumanSize(512)));
        for bad in ["", "KiB", "64KB", "64k", "-1", "99999999999999999999"] {
            assert!(bad.parse::<HumanSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn resolve_rules() {
        let rule: ResolveRule = "Quote:80=127.0.0.1:9000,[::1]:9001".parse().expect("valid");
        assert_eq!((rule.host.as_str(), rule.port, rule.addresses.len()), ("quote", Some(80), 2));
        let rule: ResolveRule = "[::1]:443=127.0.0.1:1".parse().expect("valid");
        assert_eq!((rule.host.as_str(), rule.port), ("::1", Some(443)));
        let rule: ResolveRule = "10.0.0.1=127.0.0.1:1".parse().expect("valid");
        assert_eq!((rule.host.as_str(), rule.port), ("10.0.0.1", None));
        for bad in [
            "quote",
            "=127.0.0.1:1",
            "quote=127.0.0.1",
            "quote:x=127.0.0.1:1",
            "::1=127.0.0.1:1",
            "[::1=1.1.1.1:1",
            "[x]=1.1.1.1:1",
            "q=",
        ] {
            assert!(bad.parse::<ResolveRule>().is_err(), "{bad}");
        }
    }
}
