//! One Secret as a source of key material for one usage: what is published, what was refused, and the grace of a deletion.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use identity::{
    Problem, Source,
    source::secret::{self, Usage},
};
use resource::{Document, secret_data};

use super::DELETION_GRACE;

/// A Secret that is wanted, whether it exists or not.
pub(super) struct SecretSource {
    /// For messages: `Secret namespace/name`.
    what: String,
    usage: Usage,
    /// An own certificate that is a CA is refused (`AMBASSADOR_FORCE_SECRET_VALIDATION`).
    refuse_ca: bool,
    source: Arc<Source>,
    /// What the published material was read from: an unchanged Secret publishes nothing.
    good: Option<BTreeMap<String, Vec<u8>>>,
    gone_since: Option<SystemTime>,
}

impl SecretSource {
    /// A Secret of which nothing is known yet, and the source that it feeds.
    pub(super) fn new(what: String, usage: Usage, refuse_ca: bool, source: Arc<Source>) -> Self {
        Self { what, usage, refuse_ca, source, good: None, gone_since: None }
    }

    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Publishes what changed, keeps the last good of what does not work, withdraws a deleted Secret after its grace.
    pub(super) fn update(&mut self, document: Option<&Document>, now: SystemTime) {
        let Some(document) = document else { return self.gone(now) };
        self.gone_since = None;
        let data = match secret_data(document) {
            Ok(data) => data,
            Err((_, message)) => {
                let message = format!("{}: {message}", self.what);
                return self.report(Problem::new("secret_malformed", message));
            }
        };
        if self.good.as_ref() == Some(&data) {
            return self.source.recover();
        }
        let read = secret::read(&self.what, self.usage, &data, now).and_then(|(material, left_out)| {
            if self.refuse_ca {
                material.refuse_ca(&self.what)?;
            }
            Ok((material, left_out))
        });
        match read {
            Ok((material, left_out)) => {
                for why in left_out {
                    tracing::warn!(source = %self.source.name(), "{why}");
                }
                self.source.publish(material);
                self.good = Some(data);
            }
            Err(problem) => self.report(problem),
        }
    }

    fn gone(&mut self, now: SystemTime) {
        let problem = Problem::new("secret_missing", format!("{} does not exist", self.what));
        let since = *self.gone_since.get_or_insert(now);
        let over = now.duration_since(since).unwrap_or_default() >= DELETION_GRACE;
        if over && self.source.state().material.is_some() {
            tracing::warn!(source = %self.source.name(), code = problem.code, "{problem}; its grace is over");
            self.source.withdraw(problem);
            self.good = None;
        } else {
            self.report(problem);
        }
    }

    /// Says a problem once.
    fn report(&self, problem: Problem) {
        let state = self.source.state();
        if self.good.is_none() && state.material.is_some() {
            // Held since a time when nobody looked after it: it may be long out of date.
            return self.source.withdraw(problem);
        }
        if state.problem.as_ref() != Some(&problem) {
            // A reference that never worked is a finding of compile; one that did and no longer does is said here.
            if self.good.is_some() {
                tracing::warn!(source = %self.source.name(), code = problem.code, "{problem}; the last good one stays in use");
            }
            self.source.reject(problem);
        }
    }
}
