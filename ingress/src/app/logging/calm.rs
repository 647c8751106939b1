//! Warnings of the data plane, its libraries' with them, come as often as peers like: of each kind, which is its place and its reason, a few in each second
//! are written, and of the others their number.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

/// Lines of one kind in one second.
const EACH_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Most kinds that are told apart: what there are more of has no reason of ours.
const KINDS: usize = 1024;

static KNOWN: LazyLock<Mutex<Kinds>> = LazyLock::new(Mutex::default);
static SUPPRESSED: LazyLock<Arc<AtomicU64>> = LazyLock::new(Arc::default);

/// How many lines were left out since the process began.
pub(super) fn suppressed() -> Arc<AtomicU64> {
    Arc::clone(&SUPPRESSED)
}

/// Every second, for ever: names each kind of which lines were left out.
pub(super) async fn say_what_was_left_out() {
    loop {
        tokio::time::sleep(SECOND).await;
        for (place, reason, count) in KNOWN.lock().left_out(Instant::now()) {
            tracing::warn!(place, reason, count, "lines like these were left out of this log");
        }
    }
}

/// The filter.
pub(super) struct Calm;

impl<S> Filter<S> for Calm {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let about = event.metadata();
        let ours =
            ["ingress", "identity", "resource"].iter().any(|control| about.target().starts_with(control));
        if *about.level() > Level::WARN || ours {
            return true;
        }
        let mut reason = Reason::default();
        event.record(&mut reason);
        let wanted = KNOWN.lock().wants(about, reason.0, Instant::now());
        if !wanted {
            SUPPRESSED.fetch_add(1, Relaxed);
        }
        wanted
    }
}

/// The field `reason` of an event.
#[derive(Default)]
struct Reason(String);

impl Visit for Reason {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// One kind in the present second.
struct Kind {
    place: String,
    since: Instant,
    written: u32,
    left_out: u64,
}

#[derive(Default)]
struct Kinds(HashMap<(Identifier, String), Kind>);

impl Kinds {
    /// Whether another line of this kind is written now.
    fn wants(&mut self, about: &Metadata<'_>, reason: String, now: Instant) -> bool {
        let key = (about.callsite(), reason);
        if self.0.len() >= KINDS && !self.0.contains_key(&key) {
            return false;
        }
        let kind = self.0.entry(key).or_insert_with(|| Kind {
            place: format!("{}:{}", about.file().unwrap_or_default(), about.line().unwrap_or_default()),
            since: now,
            written: 0,
            left_out: 0,
        });
        if now.saturating_duration_since(kind.since) >= SECOND {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written >= EACH_SECOND {
            kind.left_out += 1;
            return false;
        }
        kind.written += 1;
        true
    }

    /// Takes place, reason and number of what was left out; forgets the kinds that come no longer.
    fn left_out(&mut self, now: Instant) -> Vec<(String, String, u64)> {
        let mut left_out = Vec::new();
        self.0.retain(|(_, reason), kind| {
            let count = std::mem::take(&mut kind.left_out);
            if count > 0 {
                left_out.push((kind.place.clone(), reason.clone(), count));
            }
            count > 0 || now.saturating_duration_since(kind.since) < SECOND
        });
        left_out
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite as _;

    use super::*;

    /// Some event's metadata.
    fn about() -> &'static Metadata<'static> {
        use tracing::{callsite::DefaultCallsite, metadata::Kind};
        static SITE: DefaultCallsite = DefaultCallsite::new(&ABOUT);
        static ABOUT: Metadata<'static> = tracing::metadata! {
            name: "event", target: "proxy::test", level: Level::WARN,
            fields: &["reason"], callsite: &SITE, kind: Kind::EVENT
        };
        SITE.metadata()
    }

    #[test]
    fn ten_of_a_kind_in_a_second_and_the_number_of_the_others() {
        let (mut kinds, now) = (Kinds::default(), Instant::now());
        let written = |kinds: &mut Kinds, reason: &str, at| {
            (0..1000).filter(|_| kinds.wants(about(), reason.to_owned(), at)).count()
        };
        assert_eq!(written(&mut kinds, "a", now), 10);
        assert_eq!(written(&mut kinds, "b", now), 10, "another reason is another kind");
        let mut left_out = kinds.left_out(now);
        left_out.sort();
        let named: Vec<_> = left_out.iter().map(|(_, reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(named, [("a", 990), ("b", 990)]);
        assert!(left_out[0].0.contains("calm.rs:"), "{left_out:?}");
        assert!(kinds.left_out(now).is_empty(), "said once");
        assert_eq!(written(&mut kinds, "a", now + SECOND), 10, "a new second");
        kinds.left_out(now + SECOND);
        kinds.left_out(now + 3 * SECOND);
        assert!(kinds.0.is_empty(), "what comes no longer is forgotten");
    }

    #[test]
    fn no_more_kinds_are_kept_than_a_program_has() {
        let (mut kinds, now) = (Kinds::default(), Instant::now());
        for number in 0..2 * KINDS {
            kinds.wants(about(), number.to_string(), now);
        }
        assert_eq!(kinds.0.len(), KINDS);
    }
}
