//! One test for each row of the error table of spiffe.md 1.3.

use std::time::Duration;

use identity::{SourceStatus, source::WorkloadApi};
use tonic::Code;

use crate::{
    material::{Rebuilds, Running, ca, code, ids, message, svid, svid_of, until},
    scripted::{HOLD, Scripted, Step},
};

const A: &str = "spiffe://td/a";
const B: &str = "spiffe://td/b";
const GRACE: Duration = WorkloadApi::DENIED_GRACE;

#[tokio::test]
async fn stream_end_reconnects_at_once_and_the_same_state_again_changes_nothing() {
    let first = message(vec![svid(&ca(), A)]);
    let server =
        Scripted::start(vec![vec![Step::Send(first.clone()), Step::Gate(1)], vec![Step::Send(first), HOLD]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
    let rebuilds = Rebuilds::of(&client.source);
    let ended = tokio::time::Instant::now();
    server.open_gate();
    server.called(2).await;
    // Well below the second step of the backoff.
    assert!(ended.elapsed() < Duration::from_secs(2));
    let state = client.source.state();
    assert_eq!((state.revision, state.status, code(&state)), (1, SourceStatus::Ready, ""));
    assert_eq!(rebuilds.count(), 0);
}

#[tokio::test]
async fn a_server_that_ends_each_stream_is_not_asked_in_a_spin() {
    let server = Scripted::start(vec![vec![Step::Send(message(vec![svid(&ca(), A)])), Step::End]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
    let delivered = tokio::time::Instant::now();
    server.called(11).await;
    // Ten waits of up to 200 ms each: all but never this short.
    assert!(delivered.elapsed() > Duration::from_millis(200), "{:?}", delivered.elapsed());
}

#[tokio::test]
async fn an_agent_that_is_away_costs_no_material_and_no_rebuild() {
    let first = message(vec![svid(&ca(), A)]);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("api.sock");
    let server = Scripted::at(&path, vec![vec![Step::Send(first.clone()), HOLD]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
    let rebuilds = Rebuilds::of(&client.source);

    // ECONNREFUSED: the dead socket is still there.
    drop(server);
    let state = until(&client.source, "unreachable", |state| code(state) == "svid_source_unreachable").await;
    assert_eq!(ids(&state), [A]);
    // ENOENT.
    std::fs::remove_file(&path).expect("remove");
    let missing = |text: &str| text.contains("No such file");
    until(&client.source, "no socket", |state| state.problem.as_ref().is_some_and(|p| missing(&p.message)))
        .await;

    let _server = Scripted::at(&path, vec![vec![Step::Send(first), HOLD]]);
    let state = until(&client.source, "recovered", |state| state.problem.is_none()).await;
    assert_eq!((state.revision, state.status), (1, SourceStatus::Ready));
    assert_eq!(rebuilds.count(), 0);
}

/// A middlebox that forgot the connection, an agent that hangs: nobody says that the stream is dead.
#[tokio::test]
async fn a_stream_that_does_not_renew_is_asked_anew_before_the_svid_ends() {
    let ca = ca();
    let server = Scripted::start(vec![
        vec![Step::Send(message(vec![svid_of(&ca, A, Duration::from_secs(5))])), HOLD],
        vec![Step::Send(message(vec![svid(&ca, A)])), HOLD],
    ]);
    let client = Running::start(&server.uri, GRACE);
    let state = until(&client.source, "delivered", |state| state.revision == 1).await;
    let end = state.material.as_ref().expect("material").own[0].not_after;
    until(&client.source, "the next", |state| state.revision == 2).await;
    assert!(std::time::SystemTime::now() < end, "after its end");
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn unavailable_before_anything_is_pending_with_its_reason_and_goes_on() {
    let server = Scripted::start(vec![
        vec![Step::Refuse(Code::Unavailable)],
        vec![Step::Send(message(vec![svid(&ca(), A)])), HOLD],
    ]);
    let client = Running::start(&server.uri, GRACE);
    let state = until(&client.source, "unavailable", |state| state.problem.is_some()).await;
    assert_eq!((state.status, code(&state)), (SourceStatus::Pending, "svid_source_unreachable"));
    until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
}

#[tokio::test]
async fn malformed_message_keeps_the_state_and_the_stream() {
    let ca = ca();
    let server = Scripted::start(vec![vec![
        Step::Send(message(vec![svid(&ca, A)])),
        Step::Gate(1),
        Step::Send(message(vec![])),
        Step::Gate(2),
        Step::Send(message(vec![svid(&ca, B)])),
        HOLD,
    ]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.revision == 1).await;
    server.open_gate();
    let state = until(&client.source, "refused", |state| code(state) == "svid_malformed").await;
    assert_eq!((state.revision, state.status, ids(&state)), (1, SourceStatus::Ready, vec![A.to_owned()]));
    server.open_gate();
    let state = until(&client.source, "the next", |state| state.revision == 2).await;
    assert_eq!((ids(&state), code(&state)), (vec![B.to_owned()], ""));
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn malformed_first_message_keeps_the_stream_beyond_the_answers_deadline() {
    let good = message(vec![svid(&ca(), A)]);
    let script = vec![Step::Send(message(vec![])), Step::Gate(1), Step::Send(good), HOLD];
    let server = Scripted::start(vec![script]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "refused", |state| code(state) == "svid_malformed").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(1)).await;
    tokio::time::resume();
    server.open_gate();
    until(&client.source, "delivered", |state| state.revision == 1).await;
    assert_eq!(server.calls(), 1);
}

async fn stops_for_good(code: Code) {
    let first = message(vec![svid(&ca(), A)]);
    let server = Scripted::start(vec![vec![Step::Send(first), Step::Fail(code)]]);
    let mut client = Running::start(&server.uri, GRACE);
    client.ended().await;
    let state = client.source.state();
    assert_eq!((state.status, state.revision, ids(&state)), (SourceStatus::Failed, 1, vec![A.to_owned()]));
    assert_eq!(crate::material::code(&state), "svid_source_failed");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn w5_invalid_argument_is_not_retried_and_material_is_kept() {
    stops_for_good(Code::InvalidArgument).await;
}

#[tokio::test]
async fn w8_unimplemented_is_not_retried_and_material_is_kept() {
    stops_for_good(Code::Unimplemented).await;
}

#[tokio::test]
async fn w7_denied_on_an_established_stream_withdraws_at_once_and_retries() {
    let ca = ca();
    let server = Scripted::start(vec![
        vec![Step::Send(message(vec![svid(&ca, A)])), Step::Gate(1), Step::Fail(Code::PermissionDenied)],
        vec![Step::Refuse(Code::PermissionDenied)],
        vec![Step::Gate(2), Step::Send(message(vec![svid(&ca, B)])), HOLD],
    ]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
    let rebuilds = Rebuilds::of(&client.source);
    server.open_gate();
    let state = until(&client.source, "withdrawn", |state| state.status == SourceStatus::Withdrawn).await;
    assert!(state.material.is_none());
    assert_eq!(code(&state), "svid_denied");
    assert!(rebuilds.count() > 0, "profiles must fail closed");
    server.called(3).await;
    assert_eq!(client.source.state().status, SourceStatus::Withdrawn);
    server.open_gate();
    let state = until(&client.source, "back", |state| state.status == SourceStatus::Ready).await;
    assert_eq!(ids(&state), [B]);
}

#[tokio::test]
async fn w7_denied_as_first_answer_keeps_material_for_the_grace() {
    let first = message(vec![svid(&ca(), A)]);
    let server = Scripted::start(vec![
        vec![Step::Send(first.clone()), Step::End],
        vec![Step::Refuse(Code::PermissionDenied)],
        vec![Step::Fail(Code::PermissionDenied)],
        vec![Step::Gate(1), Step::Send(first), HOLD],
    ]);
    let client = Running::start(&server.uri, GRACE);
    server.called(4).await;
    let state = client.source.state();
    assert_eq!(
        (state.status, code(&state), ids(&state)),
        (SourceStatus::Ready, "svid_denied", vec![A.to_owned()])
    );
    server.open_gate();
    let state = until(&client.source, "recovered", |state| state.problem.is_none()).await;
    assert_eq!(state.revision, 1);
}

async fn denied_after(grace: Duration) -> Duration {
    let server = Scripted::start(vec![
        vec![Step::Send(message(vec![svid(&ca(), A)])), Step::End],
        vec![Step::Refuse(Code::PermissionDenied)],
    ]);
    let client = Running::start(&server.uri, grace);
    server.called(2).await;
    let denied = tokio::time::Instant::now();
    until(&client.source, "withdrawn", |state| state.status == SourceStatus::Withdrawn).await;
    denied.elapsed()
}

#[tokio::test]
async fn w7_the_grace_ends_in_a_withdrawal() {
    let took = denied_after(Duration::from_millis(600)).await;
    assert!(took >= Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn w7_without_grace_the_first_refusal_withdraws() {
    let took = denied_after(Duration::ZERO).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn denied_before_anything_is_pending_and_names_the_registration() {
    let server = Scripted::start(vec![vec![Step::Refuse(Code::PermissionDenied)]]);
    let client = Running::start(&server.uri, GRACE);
    let state = until(&client.source, "denied", |state| code(state) == "svid_denied").await;
    assert_eq!(state.status, SourceStatus::Pending);
    assert!(state.problem.as_ref().expect("problem").message.contains("registration entry"));
    server.called(2).await;
}

#[tokio::test]
async fn w9_unspecified_codes_keep_material_and_are_retried() {
    let codes = [
        Code::Unauthenticated,
        Code::Internal,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::Unknown,
    ];
    for failure in codes {
        let ca = ca();
        let server = Scripted::start(vec![
            vec![Step::Send(message(vec![svid(&ca, A)])), Step::Fail(failure)],
            vec![Step::Refuse(failure)],
            vec![Step::Gate(1), Step::Send(message(vec![svid(&ca, B)])), HOLD],
        ]);
        let client = Running::start(&server.uri, GRACE);
        server.called(3).await;
        let state = client.source.state();
        assert_eq!((state.status, ids(&state)), (SourceStatus::Ready, vec![A.to_owned()]), "{failure}");
        server.open_gate();
        until(&client.source, "the next", |state| ids(state) == [B]).await;
    }
}
