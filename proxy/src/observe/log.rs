//! The access log's writer: one thread, a bounded channel; a blocked pipe costs lines, never a worker's time.

use std::{
    io::{BufWriter, Write},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

/// Lines that may wait.
const CAPACITY: usize = 16 * 1024;
/// How long a flush at the end waits for a blocked pipe.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending side.
#[derive(Debug)]
pub(super) struct LogWriter {
    lines: Option<SyncSender<Item>>,
}

impl LogWriter {
    /// Nothing is written.
    pub(super) fn off() -> Self {
        Self { lines: None }
    }

    /// Starts the thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> Self {
        let (lines, waiting) = sync_channel(CAPACITY);
        let started =
            thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&waiting, out));
        if let Err(error) = &started {
            tracing::error!(%error, "the access log cannot be written: no thread");
        }
        Self { lines: started.is_ok().then_some(lines) }
    }

    /// Hands over a line; `false` when it was dropped.
    pub(super) fn write(&self, line: Vec<u8>) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.try_send(Item::Line(line)).is_ok())
    }

    /// Waits until what was handed over is written, bounded.
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.lines.as_ref().is_some_and(|lines| lines.try_send(Item::Flush(done)).is_ok()) {
            // A blocked pipe ends the wait; its lines are lost as they would be anyway.
            let _late = wait.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

fn write_all(waiting: &Receiver<Item>, out: impl Write) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    loop {
        let item = match waiting.try_recv() {
            Ok(item) => item,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                // A reader that went away must not end the proxy: lines go nowhere until it is back.
                let _broken_pipe = out.flush();
                match waiting.recv() {
                    Ok(item) => item,
                    Err(_disconnected) => return,
                }
            }
        };
        match item {
            Item::Line(line) => {
                let _broken_pipe = out.write_all(&line);
            }
            Item::Flush(done) => {
                let _broken_pipe = out.flush();
                let _caller_gave_up = done.try_send(());
            }
        }
    }
}
