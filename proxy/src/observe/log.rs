//! Writing lines: one thread, a bounded channel; a blocked pipe or a full disk costs lines, never anybody's time.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

/// How long a flush at the end waits for a blocked pipe.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending side of a log.
#[derive(Debug)]
pub struct LogWriter {
    lines: Option<SyncSender<Item>>,
    lost: Arc<AtomicU64>,
}

impl LogWriter {
    /// Nothing is written.
    pub(super) fn off() -> Self {
        Self { lines: None, lost: Arc::default() }
    }

    /// Starts the thread, which bears the log's name; so many lines may wait for it. `failing` is told when writing begins to fail, and when it works again:
    /// once, not for each line.
    pub fn start(
        (name, capacity): (&'static str, usize),
        out: impl Write + Send + 'static,
        failing: impl Fn(Option<&io::Error>) + Send + 'static,
    ) -> Self {
        let (lines, waiting) = sync_channel(capacity);
        let lost = Arc::<AtomicU64>::default();
        let mut writer = Writing { out: BufWriter::with_capacity(64 * 1024, out), failing, fails: false };
        let counted = Arc::clone(&lost);
        let started =
            thread::Builder::new().name(name.to_owned()).spawn(move || writer.all(&waiting, &counted));
        if let Err(error) = &started {
            tracing::error!(%error, log = name, "a log cannot be written: no thread");
        }
        Self { lines: started.is_ok().then_some(lines), lost }
    }

    /// Hands over a line, or drops and counts it: too many wait already.
    pub fn write(&self, line: Vec<u8>) {
        if self.lines.as_ref().is_some_and(|lines| lines.try_send(Item::Line(line)).is_err()) {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Lines that were dropped, or could not be written.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Waits until what was handed over is written, bounded.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.lines.as_ref().is_some_and(|lines| lines.try_send(Item::Flush(done)).is_ok()) {
            // A blocked pipe ends the wait; its lines are lost as they would be anyway.
            let _late = wait.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

/// The writing side.
struct Writing<W: Write, F> {
    out: BufWriter<W>,
    failing: F,
    fails: bool,
}

impl<W: Write, F: Fn(Option<&io::Error>)> Writing<W, F> {
    fn all(&mut self, waiting: &Receiver<Item>, lost: &AtomicU64) {
        loop {
            let item = match waiting.try_recv() {
                Ok(item) => item,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    match waiting.recv() {
                        Ok(item) => item,
                        Err(_disconnected) => return,
                    }
                }
            };
            match item {
                Item::Line(line) => {
                    // That it fits into the buffer does not mean that it can be written.
                    if let Err(error) = self.out.write_all(&line) {
                        lost.fetch_add(1, Relaxed);
                        self.note(Some(&error));
                    }
                }
                Item::Flush(done) => {
                    self.flush();
                    let _caller_gave_up = done.try_send(());
                }
            }
        }
    }

    fn flush(&mut self) {
        let flushed = self.out.flush();
        self.note(flushed.as_ref().err());
    }

    /// A reader that went away must not end the proxy: lines go nowhere until it is back.
    fn note(&mut self, error: Option<&io::Error>) {
        if error.is_some() != self.fails {
            self.fails = error.is_some();
            (self.failing)(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// A disk that is full until it is told otherwise.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(bool, Vec<u8>)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock();
            if !disk.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_named_once_and_its_lines_are_counted() {
        let (disk, told) = (Disk::default(), Arc::<Mutex<Vec<bool>>>::default());
        let heard = Arc::clone(&told);
        let log =
            LogWriter::start(("full", 64), disk.clone(), move |error| heard.lock().push(error.is_some()));
        let line = vec![b'x'; 1024];
        for _ in 0..1000 {
            log.write(line.clone());
            log.flush();
        }
        assert_eq!(*told.lock(), [true], "once");
        // What fits into the buffer waits there.
        assert!((900..1000).contains(&log.lost().load(Relaxed)), "{:?}", log.lost());
        disk.0.lock().0 = true;
        log.write(line);
        log.flush();
        assert_eq!(*told.lock(), [true, false], "and when it is over");
        assert!(disk.0.lock().1.len() > 32 * 1024);
    }
}
