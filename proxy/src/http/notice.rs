//! Our own GOAWAY: the first of a drain, ahead of hyper's, and the last of a connection that hyper would end without one.
//!
//! h2 sends its last GOAWAY as soon as a ping comes back. Clients that are built on h2 answer the ping before they send the
//! requests that were queued when the first GOAWAY came; those then lie beyond the last stream and are lost. RFC 9113 6.8
//! lets a server wait for them, so the notice is given here, and hyper is told to end the connection later.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::io::AsyncWrite;

/// GOAWAY on stream 0: last stream 2^31-1, as any may have been served.
fn frame(why: Reason) -> [u8; 17] {
    let [a, b, c, d] = u32::from(why).to_be_bytes();
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, a, b, c, d]
}

/// How far the notices of one connection are.
#[derive(Debug, Default)]
pub(super) struct Notice {
    /// What was written before was flushed: h2 flushes whole frames only. Not so before its SETTINGS, which come first.
    between_frames: bool,
    /// Being written.
    present: Option<Reason>,
    written: usize,
    /// The last one that was written and flushed.
    said: Option<Reason>,
}

impl Notice {
    /// Something is about to be written.
    pub(super) fn frame_begins(&mut self) {
        self.between_frames = false;
    }

    /// All that was to be written is.
    pub(super) fn frames_ended(&mut self) {
        self.between_frames = true;
    }

    /// Writes the notice once, if it may stand here, and the rest of one before. Ready also where it may not.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        why: Reason,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.between_frames && self.said != Some(why) {
            let present = *self.present.get_or_insert(why);
            while let Some(rest) = frame(present).get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.written += count,
                }
            }
            ready!(Pin::new(&mut *io).poll_flush(cx))?;
            self.said = self.present.take();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn it_stands_between_frames_once_and_whole() {
        // Room for five bytes at a time.
        let (mut ours, mut theirs) = duplex(5);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).await.map(|_| read)
        });
        let mut notice = Notice::default();
        notice.frame_begins();
        poll_fn(|cx| notice.poll(Reason::NO_ERROR, &mut ours, cx)).await.expect("not yet");
        assert_eq!(notice.written, 0, "a frame is being written");
        ours.write_all(b"frame").await.expect("write");
        notice.frames_ended();
        for _ in 0..2 {
            poll_fn(|cx| notice.poll(Reason::NO_ERROR, &mut ours, cx)).await.expect("written");
        }
        drop(ours);
        let wanted = [b"frame".as_slice(), &frame(Reason::NO_ERROR)].concat();
        assert_eq!(reading.await.expect("joined").expect("read"), wanted);
    }

    #[tokio::test]
    async fn another_one_waits_for_the_end_of_the_first() {
        let (mut ours, mut theirs) = duplex(5);
        let mut notice = Notice::default();
        notice.frames_ended();
        let first = poll_fn(|cx| Poll::Ready(notice.poll(Reason::NO_ERROR, &mut ours, cx))).await;
        assert!(first.is_pending() && notice.written == 5);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).await.map(|_| read)
        });
        poll_fn(|cx| notice.poll(Reason::ENHANCE_YOUR_CALM, &mut ours, cx)).await.expect("written");
        drop(ours);
        let wanted = [frame(Reason::NO_ERROR), frame(Reason::ENHANCE_YOUR_CALM)].concat();
        assert_eq!(reading.await.expect("joined").expect("read"), wanted);
    }
}
