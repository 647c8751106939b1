//! Panics, of whichever thread: counted, and named in the program's log.

use std::{
    panic::{self, PanicHookInfo},
    sync::{
        Arc, LazyLock, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

/// Since the process began: there is one hook for all threads.
static COUNT: LazyLock<Arc<AtomicU64>> = LazyLock::new(Arc::default);

/// How many there were.
pub(super) fn count() -> &'static Arc<AtomicU64> {
    &COUNT
}

/// Counts panics from now on, and names their place in the program's log; without a log they are shown as before.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            COUNT.fetch_add(1, Relaxed);
            if tracing::enabled!(tracing::Level::ERROR) {
                name(panic);
            } else {
                before(panic);
            }
        }));
    });
}

fn name(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("something that is no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(
        reason = "internal",
        thread,
        place,
        "a panic, which ends the request or connection that caused it; please report it: {what}"
    );
}
