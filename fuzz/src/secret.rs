//! The values of Secrets and PEM files.

use std::{collections::BTreeMap, time::SystemTime};

use identity::source::secret::{Usage, read};

/// What begins the value of a key: `=== tls.crt`, on a line.
const MARK: &str = "=== ";

/// The values of a Secret, each below its key.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut key = "tls.crt".to_owned();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(MARK)) {
            Some(name) => name.trim().clone_into(&mut key),
            None => data.entry(key.clone()).or_default().extend(line),
        }
    }
    for usage in [Usage::Identity, Usage::Trust, Usage::Crl] {
        match read("Secret shop/it", usage, &data, SystemTime::now()) {
            Ok((material, warnings)) => {
                let trust = material.trust.is_some();
                assert_eq!(
                    (material.own.len(), trust),
                    if usage == Usage::Identity { (1, false) } else { (0, true) }
                );
                for warning in &warnings {
                    tells_nothing(warning, &data);
                }
                tells_nothing(&format!("{material:?}"), &BTreeMap::new());
            }
            Err(problem) => {
                assert!(problem.message.contains("Secret shop/it"), "{problem}");
                tells_nothing(&problem.message, &data);
            }
        }
    }
}

/// No line of base64 of a value stands in a message.
fn tells_nothing(message: &str, data: &BTreeMap<String, Vec<u8>>) {
    let lines = data.values().flat_map(|value| value.split(|byte| *byte == b'\n')).map(<[u8]>::trim_ascii);
    let coded = |line: &&[u8]| {
        line.len() > 24 && line.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b))
    };
    for line in lines.filter(coded).filter_map(|line| std::str::from_utf8(line).ok()) {
        assert!(!message.contains(line), "{message}");
    }
    assert!(!message.contains("PRIVATE KEY---"), "{message}");
}
