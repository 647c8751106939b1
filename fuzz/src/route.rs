//! The route table, against a plain scan over the same Mappings.

use std::{collections::BTreeMap, fmt::Write as _};

use arbitrary::{Result, Unstructured};
use ingress::report::Severity;
use proxy::route::Router as _;

use crate::{
    fields,
    manifests::{Ask, Compiled, HTTP, ask, documents},
    written::{
        ASKED, AUTHORITIES, HEADERS, HOSTNAMES, METHODS, PATHS, QUERIES, Request, SENT, Scan, WEIGHTS,
        Written,
    },
};

/// The bytes choose Mappings, then requests until they end.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    // What runs out of bytes has chosen what it has.
    let _ended = run(&mut Unstructured::new(bytes));
}

fn run(bytes: &mut Unstructured<'_>) -> Result<()> {
    let count = bytes.int_in_range(1..=12)?;
    let written = (0..count).map(|_| mapping(bytes)).collect::<Result<Vec<_>>>()?;
    let mut text = HTTP.to_owned();
    for (place, one) in written.iter().enumerate() {
        let _infallible = write!(
            text,
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: m{place:03}}}\n\
             spec: {{{}, service: \"upstream:8080\"}}\n",
            one.spec()
        );
    }
    let (documents, errors) = documents(&text);
    let compiled = Compiled::new(&documents, &errors);
    let mut wrong = compiled.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    assert!(wrong.all(|finding| finding.code == "weights_exceed_100"), "{:?}", compiled.report);
    let (table, scan) = (compiled.table(), Scan::new(&written));
    loop {
        let request = request(bytes)?;
        let lines: Vec<_> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let fields = fields::read(lines.join("\n").as_bytes());
        let asked = Ask {
            method: request.method,
            authority: request.authority,
            path: &request.path,
            query: request.query,
            fields: &fields,
            dice: request.dice,
        };
        let decision = ask(&table, &asked);
        let found = decision.map_or("", |decision| table.name(decision.why));
        let wanted = scan.decide(&request).map_or(String::new(), |place| format!("default/m{place:03}"));
        assert_eq!(found, wanted, "{request:?} of\n{text}");
    }
}

fn mapping(bytes: &mut Unstructured<'_>) -> Result<Written> {
    let headers: BTreeMap<_, _> = match bytes.int_in_range(0..=5_u8)? {
        0 => [*bytes.choose(&HEADERS)?].into(),
        1 => [*bytes.choose(&HEADERS)?, *bytes.choose(&HEADERS)?].into(),
        _ => BTreeMap::new(),
    };
    Ok(Written {
        precedence: *bytes.choose(&[0, 0, 0, 0, -1, 1])?,
        path: *bytes.choose(&PATHS)?,
        hostname: bytes.choose(&HOSTNAMES)?,
        method: maybe(bytes, &METHODS[1..])?,
        headers: headers.into_iter().collect(),
        query: maybe(bytes, &QUERIES)?,
        weight: maybe(bytes, &WEIGHTS)?,
    })
}

fn request(bytes: &mut Unstructured<'_>) -> Result<Request> {
    let mut path = "/".to_owned();
    for _ in 0..bytes.int_in_range(0..=6)? {
        path.push(*bytes.choose(&['a', 'b', 'A', 'B', '/'])?);
    }
    Ok(Request {
        method: bytes.choose(&METHODS)?,
        authority: bytes.choose(&AUTHORITIES)?,
        path,
        query: maybe(bytes, &ASKED)?,
        headers: bytes.choose(&SENT)?.to_vec(),
        dice: byte(bytes)? % 100,
    })
}

/// A choice once in three times.
fn maybe<T: Copy>(bytes: &mut Unstructured<'_>, of: &[T]) -> Result<Option<T>> {
    if byte(bytes)? % 3 == 0 { bytes.choose(of).copied().map(Some) } else { Ok(None) }
}

/// Unlike numbers of `arbitrary`, it ends when the bytes do.
fn byte(bytes: &mut Unstructured<'_>) -> Result<u8> {
    bytes.bytes(1).map(|bytes| bytes.first().copied().unwrap_or_default())
}
