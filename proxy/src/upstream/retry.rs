//! When a request is tried again.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;

use crate::{Error, Retry};

/// Conditions of a retry beyond what is always safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Any 5xx, or no answer.
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// The connection could not be made.
    ConnectFailure,
    /// 409.
    Retriable4xx,
    /// The upstream refused the stream.
    RefusedStream,
}

/// How often and when a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Conditions asked for by the Mapping.
    pub on: Vec<RetryOn>,
    /// How many more tries the conditions may cause.
    pub tries: u32,
    /// Deadline of one try; `None`: the request's.
    pub per_try: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { on: Vec::new(), tries: 1, per_try: None }
    }
}

/// Tries more, when nothing of the request was processed.
const UNSENT_TRIES: u32 = 3;
/// Tries more, when an idle connection died under an idempotent request.
const IDEMPOTENT_TRIES: u32 = 1;

/// A cluster may have one request sent again under way for so many that are on their first try: 20 %.
const FIRST_TRIES_FOR_EACH: u32 = 5;
/// So many may be under way however little else is.
const FLOOR: u32 = 3;

/// The requests of one cluster that are being sent again, over all workers: what keeps an upstream that fails from being asked
/// several times as much as one that does not.
#[derive(Debug, Default)]
pub(super) struct Resends(AtomicU32);

/// One request that is being sent again; ends when dropped.
#[derive(Debug)]
pub(super) struct Resend<'a>(&'a AtomicU32);

impl Resends {
    /// Lets one more request be sent again. `active`: requests of the cluster under way, those sent again included. `None`: the
    /// budget is spent.
    pub(super) fn begin(&self, active: u32) -> Option<Resend<'_>> {
        let more = |now: u32| {
            let allowed = (active.saturating_sub(now) / FIRST_TRIES_FOR_EACH).max(FLOOR);
            (now < allowed).then_some(now + 1)
        };
        let begun = self.0.fetch_update(Relaxed, Relaxed, more);
        // Made only if it was counted: its end counts, too.
        begun.is_ok().then(|| Resend(&self.0))
    }
}

impl Drop for Resend<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether a request may be tried again, by what it is and by what happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It may not.
    No,
    /// If the budget of its cluster allows it.
    Budgeted,
    /// It never reached the upstream's application, and a connection that ends does this once: no storm comes of it.
    Free,
}

/// What is left of the tries of one request.
pub(super) struct Budget<'a> {
    policy: &'a RetryPolicy,
    asked: u32,
    unsent: u32,
    idempotent: u32,
}

impl<'a> Budget<'a> {
    pub(super) fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, asked: policy.tries, unsent: UNSENT_TRIES, idempotent: IDEMPOTENT_TRIES }
    }

    /// Whether the policy asks for another try after this answer; takes it from the budget.
    pub(super) fn wants_again(&mut self, status: StatusCode) -> bool {
        let wanted = self.policy.on.iter().any(|on| match on {
            RetryOn::ServerError => status.is_server_error(),
            RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
            RetryOn::Retriable4xx => status == StatusCode::CONFLICT,
            RetryOn::ConnectFailure | RetryOn::RefusedStream => false,
        });
        wanted && take(&mut self.asked)
    }

    /// Whether another try is safe, or asked for by the policy, after this error; takes it from the budget. A connect
    /// failure is not tried again by itself: the other endpoints were tried already.
    pub(super) fn allows(&mut self, error: &Error, idempotent: bool) -> Again {
        let connect = matches!(error, Error::Connect { .. });
        let safe = match error.retry() {
            Retry::Unsent if !connect && take(&mut self.unsent) => return Again::Free,
            Retry::Never | Retry::Unsent => false,
            Retry::Refused => take(&mut self.unsent),
            Retry::Idempotent => idempotent && take(&mut self.idempotent),
        };
        let wanted = safe || (self.asks_for(error) && take(&mut self.asked));
        if wanted { Again::Budgeted } else { Again::No }
    }

    fn asks_for(&self, error: &Error) -> bool {
        let connect = matches!(error, Error::Connect { .. });
        let upstream = connect || matches!(error, Error::Upstream { .. } | Error::Timeout { .. });
        self.policy.on.iter().any(|on| match on {
            RetryOn::ServerError | RetryOn::GatewayError => upstream,
            RetryOn::ConnectFailure => connect,
            RetryOn::Retriable4xx => false,
            RetryOn::RefusedStream => matches!(error.retry(), Retry::Unsent | Retry::Refused) && !connect,
        })
    }
}

fn take(budget: &mut u32) -> bool {
    let left = *budget > 0;
    *budget = budget.saturating_sub(1);
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    fn upstream(retry: Retry) -> Error {
        Error::Upstream {
            upstream: "u".to_owned(),
            reason: Reason::UPSTREAM_RESET,
            retry,
            message: String::new(),
        }
    }

    fn connect() -> Error {
        Error::Connect { upstream: "u".to_owned(), reason: Reason::CONNECT_FAILED, message: String::new() }
    }

    fn policy(on: &[RetryOn], tries: u32) -> RetryPolicy {
        RetryPolicy { on: on.to_vec(), tries, per_try: None }
    }

    fn grants(budget: &mut Budget<'_>, error: &Error, idempotent: bool) -> usize {
        (0..20).take_while(|_| budget.allows(error, idempotent) != Again::No).count()
    }

    #[test]
    fn what_is_safe_is_tried_again_without_a_policy_and_is_bounded() {
        let none = RetryPolicy::default();
        assert_eq!(grants(&mut Budget::new(&none), &upstream(Retry::Unsent), false), 3);
        assert_eq!(grants(&mut Budget::new(&none), &upstream(Retry::Idempotent), true), 1);
        assert_eq!(grants(&mut Budget::new(&none), &upstream(Retry::Idempotent), false), 0);
        assert_eq!(grants(&mut Budget::new(&none), &upstream(Retry::Never), true), 0);
        assert_eq!(grants(&mut Budget::new(&none), &connect(), true), 0);
        assert!(!Budget::new(&none).wants_again(StatusCode::SERVICE_UNAVAILABLE));
    }

    #[test]
    fn only_what_never_reached_the_upstream_is_outside_of_the_budget() {
        let none = RetryPolicy::default();
        let once = |retry| Budget::new(&none).allows(&upstream(retry), true);
        assert_eq!(once(Retry::Unsent), Again::Free);
        assert_eq!(once(Retry::Refused), Again::Budgeted);
        assert_eq!(once(Retry::Idempotent), Again::Budgeted);
        assert_eq!(once(Retry::Never), Again::No);
    }

    #[test]
    fn one_in_five_is_sent_again_and_three_always() {
        for (active, allowed) in [(0, 3), (1, 3), (22, 3), (23, 4), (60, 10), (120, 20), (1200, 200)] {
            let resends = Resends::default();
            let begun: Vec<_> = std::iter::from_fn(|| resends.begin(active)).collect();
            assert_eq!(begun.len(), allowed, "{active}");
            drop(begun);
            assert!(resends.begin(0).is_some(), "what has ended is free again");
        }
    }

    #[test]
    fn workers_share_one_budget() {
        let resends = Resends::default();
        let begin = || std::iter::from_fn(|| resends.begin(120)).collect::<Vec<_>>();
        let total: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            // Held until all have been asked: what is dropped could be begun again.
            let all: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("worker")).collect();
            all.iter().map(Vec::len).sum()
        });
        assert_eq!(total, 20);
    }

    #[test]
    fn a_policy_adds_its_tries_for_its_conditions_alone() {
        let connects = policy(&[RetryOn::ConnectFailure], 2);
        assert_eq!(grants(&mut Budget::new(&connects), &connect(), false), 2);
        assert_eq!(grants(&mut Budget::new(&connects), &upstream(Retry::Never), true), 0);
        let gateway = policy(&[RetryOn::GatewayError], 2);
        let mut budget = Budget::new(&gateway);
        assert!(!budget.wants_again(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(budget.wants_again(StatusCode::BAD_GATEWAY));
        assert_eq!(budget.allows(&upstream(Retry::Never), false), Again::Budgeted);
        assert!(!budget.wants_again(StatusCode::BAD_GATEWAY), "two tries in all");
        let refused = policy(&[RetryOn::RefusedStream], 1);
        assert_eq!(grants(&mut Budget::new(&refused), &upstream(Retry::Refused), false), 4);
        assert_eq!(grants(&mut Budget::new(&refused), &upstream(Retry::Unsent), false), 4);
        let conflict = policy(&[RetryOn::Retriable4xx], 1);
        assert!(Budget::new(&conflict).wants_again(StatusCode::CONFLICT));
        assert!(!Budget::new(&conflict).wants_again(StatusCode::NOT_FOUND));
        let downstream = Error::Downstream { reason: Reason::BAD_HOST, message: String::new() };
        let any = policy(&[RetryOn::ServerError], 5);
        assert_eq!(grants(&mut Budget::new(&any), &downstream, true), 0);
    }
}
