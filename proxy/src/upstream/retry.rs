//! When a request is tried again.

use std::time::Duration;

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
    pub(super) fn allows(&mut self, error: &Error, idempotent: bool) -> bool {
        let connect = matches!(error, Error::Connect { .. });
        let safe = match error.retry() {
            Retry::Never => false,
            Retry::Unsent => !connect && take(&mut self.unsent),
            Retry::Idempotent => idempotent && take(&mut self.idempotent),
        };
        safe || (self.asks_for(error) && take(&mut self.asked))
    }

    fn asks_for(&self, error: &Error) -> bool {
        let connect = matches!(error, Error::Connect { .. });
        let upstream = connect || matches!(error, Error::Upstream { .. } | Error::Timeout { .. });
        self.policy.on.iter().any(|on| match on {
            RetryOn::ServerError | RetryOn::GatewayError => upstream,
            RetryOn::ConnectFailure => connect,
            RetryOn::Retriable4xx => false,
            RetryOn::RefusedStream => error.retry() == Retry::Unsent && !connect,
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
        (0..20).take_while(|_| budget.allows(error, idempotent)).count()
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
    fn a_policy_adds_its_tries_for_its_conditions_alone() {
        let connects = policy(&[RetryOn::ConnectFailure], 2);
        assert_eq!(grants(&mut Budget::new(&connects), &connect(), false), 2);
        assert_eq!(grants(&mut Budget::new(&connects), &upstream(Retry::Never), true), 0);
        let gateway = policy(&[RetryOn::GatewayError], 2);
        let mut budget = Budget::new(&gateway);
        assert!(!budget.wants_again(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(budget.wants_again(StatusCode::BAD_GATEWAY));
        assert!(budget.allows(&upstream(Retry::Never), false));
        assert!(!budget.wants_again(StatusCode::BAD_GATEWAY), "two tries in all");
        let refused = policy(&[RetryOn::RefusedStream], 1);
        assert_eq!(grants(&mut Budget::new(&refused), &upstream(Retry::Unsent), false), 4);
        let conflict = policy(&[RetryOn::Retriable4xx], 1);
        assert!(Budget::new(&conflict).wants_again(StatusCode::CONFLICT));
        assert!(!Budget::new(&conflict).wants_again(StatusCode::NOT_FOUND));
        let downstream = Error::Downstream { reason: Reason::BAD_HOST, message: String::new() };
        let any = policy(&[RetryOn::ServerError], 5);
        assert_eq!(grants(&mut Budget::new(&any), &downstream, true), 0);
    }
}
