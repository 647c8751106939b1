//! Every limit and timeout has a counter, and a test that it rises.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop where it fails")]

mod proof;

use std::collections::BTreeSet;

use proxy::{
    limits::Limits,
    observe::Counter::{self, *},
};

const LIMITS: &str = "proxy/tests/server/limits.rs";
const TLS: &str = "proxy/tests/server/tls.rs";
const BODIES: &str = "proxy/tests/server/bodies.rs";
const FLAGS: &str = "ingress/tests/live/flags/limits.rs";
const MAPPING: (&str, &str) = (FLAGS, "a_field_of_a_resource_wins_over_its_flag");
const MODULE: (&str, &str) = (FLAGS, "a_field_of_the_module_wins_over_its_flag");
const TCP: (&str, &str) = (FLAGS, "a_field_of_a_tcp_mapping_wins_over_its_flag");

/// Fields of [`Limits`], with what counts them and where that is seen.
const COUNTED: &[(&str, Counter, (&str, &str))] = &[
    ("header_timeout", HeaderTimeout, (LIMITS, "a_head_that_does_not_end_is_cut_wherever_it_stops")),
    ("idle_timeout", IdleTimeout, (LIMITS, "an_idle_connection_is_closed")),
    ("handshake_timeout", HandshakeTimeout, (TLS, "a_handshake_that_does_not_end_is_cut")),
    (
        "connect_timeout",
        ConnectTimeout,
        (FLAGS, "an_upstream_that_does_not_shake_hands_is_given_up_by_the_connect_timeout"),
    ),
    (
        "upstream_timeout",
        UpstreamTimeout,
        (FLAGS, "an_answer_that_does_not_come_is_given_up_by_the_upstream_timeout"),
    ),
    ("stream_idle_timeout", StreamIdleTimeout, (BODIES, "a_stream_without_bytes_is_cut_by_the_idle_timeout")),
    ("max_header_bytes", HeadersTooLarge, (FLAGS, "a_head_has_no_more_bytes_than_allowed")),
    ("max_headers", HeadersTooLarge, (FLAGS, "a_head_has_no_more_fields_than_allowed")),
    ("max_connections", MaxConnections, (LIMITS, "no_more_connections_than_allowed")),
    (
        "max_descriptors",
        AcceptErrors,
        (
            "ingress/tests/live/faults.rs",
            "without_descriptors_what_is_open_serves_and_the_admin_port_answers",
        ),
    ),
    (
        "max_streams",
        MaxStreams,
        ("proxy/tests/server/floods.rs", "streams_beyond_the_limit_are_refused_and_counted"),
    ),
    (
        "max_resets",
        MaxResets,
        ("proxy/tests/server/floods.rs", "a_rapid_reset_ends_the_connection_after_a_bounded_number"),
    ),
    (
        "max_handshakes",
        MaxHandshakes,
        (TLS, "no_more_handshakes_at_once_than_allowed_and_a_place_is_given_back"),
    ),
    (
        "proxy_protocol_from",
        BadProxyProtocol,
        ("ingress/tests/live/preface.rs", "a_header_of_anybody_else_is_refused_under_its_reason"),
    ),
    (
        "drain_timeout",
        DrainCut,
        ("proxy/tests/server/drain.rs", "what_still_runs_at_the_deadline_is_cut_and_counted"),
    ),
];

/// Fields of [`Limits`] that cut and refuse nothing, so that there is nothing to count.
const NOTHING_TO_COUNT: &[(&str, &str)] = &[
    ("drain_delay", "all is accepted meanwhile"),
    ("last_request_within", "what is closed then is at rest, and the drain was ordered"),
];

/// Fields of resources that win over those of [`Limits`], or have none.
const OF_RESOURCES: &[(&str, Counter, (&str, &str))] = &[
    ("timeout_ms", UpstreamTimeout, MAPPING),
    ("idle_timeout_ms", StreamIdleTimeout, MAPPING),
    ("connect_timeout_ms", ConnectTimeout, MAPPING),
    ("per_try", UpstreamTimeout, (BODIES, "each_try_may_have_a_limit_of_its_own")),
    ("cluster_request_timeout_ms", UpstreamTimeout, MODULE),
    ("listener_idle_timeout_ms", IdleTimeout, MODULE),
    ("idle_timeout_ms", StreamIdleTimeout, TCP),
];

/// The name of the metric of a counter.
fn metric(counter: Counter) -> &'static str {
    Counter::ALL.iter().find(|(one, ..)| *one == counter).expect("every counter has a metric").1
}

#[test]
fn every_limit_has_a_counter_and_every_row_its_field() {
    let shown = format!("{:#?}", Limits::default());
    let fields = shown.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": "));
    let fields: BTreeSet<_> =
        fields.map(|(field, _)| field).filter(|field| !field.starts_with(' ')).collect();
    assert!(fields.len() > 10, "{shown}");
    let counted = COUNTED.iter().map(|(field, ..)| *field);
    let rows: BTreeSet<_> = counted.chain(NOTHING_TO_COUNT.iter().map(|(field, _)| *field)).collect();
    assert_eq!(rows, fields, "fields with a row, and fields of Limits");
    assert!(NOTHING_TO_COUNT.iter().all(|(_, why)| !why.is_empty()));
}

#[test]
fn every_counter_of_a_limit_is_seen_to_rise_where_the_limit_is_reached() {
    for (field, counter, (file, test)) in COUNTED.iter().chain(OF_RESOURCES) {
        let body = proof::test(file, test);
        assert!(body.contains(field) || is_flag_of(field, &body), "{file}: {test} does not set {field}");
        let counted = [format!("Counter::{counter:?})"), format!("\"{}_total\"", metric(*counter))];
        assert!(
            counted.iter().any(|text| body.contains(text)),
            "{file}: {test} does not look at {counted:?}"
        );
    }
}

/// Whether a test gives the flag of a field.
fn is_flag_of(field: &str, body: &str) -> bool {
    body.contains(&format!("\"--{}\"", field.replace('_', "-")))
}
