//! The table against a plain scan over what people write.

use proptest::{prelude::*, sample::select};

use ingress::report::Severity;

use crate::{
    harness::{Ask, ask, compiled, mapping},
    written::{
        ASKED, AUTHORITIES, HEADERS, HOSTNAMES, METHODS, PATHS, QUERIES, Request, SENT, Scan, WEIGHTS,
        Written,
    },
};

fn written() -> impl Strategy<Value = Written> {
    let header = select(&HEADERS[..]);
    let headers = prop::collection::btree_map(header.clone().prop_map(|(name, _)| name), header, 0..3)
        .prop_map(|headers| headers.into_iter().map(|(name, (_, value))| (name, value)).collect());
    (
        prop_oneof![4 => Just(0), 1 => -1..2_i64],
        select(&PATHS[..]),
        select(&HOSTNAMES[..]),
        prop::option::weighted(0.3, select(&METHODS[1..])),
        headers,
        prop::option::weighted(0.2, select(&QUERIES[..])),
        prop::option::weighted(0.4, select(&WEIGHTS[..])),
    )
        .prop_map(|(precedence, path, hostname, method, headers, query, weight)| Written {
            precedence,
            path,
            hostname,
            method,
            headers,
            query,
            weight,
        })
}

fn request() -> impl Strategy<Value = Request> {
    (
        select(&METHODS[..]),
        select(&AUTHORITIES[..]),
        "/[abAB/]{0,6}",
        prop::option::of(select(&ASKED[..])),
        select(&SENT[..]),
        0..100_u8,
    )
        .prop_map(|(method, authority, path, query, headers, dice)| Request {
            method,
            authority,
            path,
            query,
            headers: headers.to_vec(),
            dice,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_table_decides_as_a_scan_does(
        written in prop::collection::vec(written(), 1..80),
        requests in prop::collection::vec(request(), 40),
        crowded: bool,
    ) {
        let mut written = written;
        if crowded {
            for one in &mut written {
                (one.path, one.hostname) = (PATHS[0], HOSTNAMES[0]);
            }
        }
        let names: Vec<_> = (0..written.len()).map(|index| format!("m{index:03}")).collect();
        let manifests: String = written.iter().zip(&names).map(|(one, name)| mapping(name, &one.spec())).collect();
        let (table, report) = compiled(&manifests);
        let unexpected: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error && finding.code != "weights_exceed_100")
            .collect();
        prop_assert!(unexpected.is_empty(), "{:#?}", unexpected);
        let scan = Scan::new(&written);
        for request in &requests {
            let target = match request.query {
                Some(query) => format!("{}?{query}", request.path),
                None => request.path.clone(),
            };
            let asked = Ask {
                method: request.method,
                authority: request.authority,
                target: &target,
                headers: &request.headers,
                dice: request.dice,
                ..Ask::default()
            };
            let found = ask(&table, &asked);
            let expected = scan.decide(request);
            prop_assert_eq!(&found.route, expected.map_or("", |place| &names[place]), "{:?}", request);
        }
    }
}
