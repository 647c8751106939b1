//! The first GOAWAY of a drain, ahead of hyper's.
//!
//! h2 sends its last GOAWAY as soon as a ping comes back. Clients that are built on h2 answer the ping before they send the
//! requests that were queued when the first GOAWAY came; those then lie beyond the last stream and are lost. RFC 9113 6.8
//! lets a server wait for them, so the notice is given here, and hyper is told to end the connection later.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

/// GOAWAY on stream 0: last stream 2^31-1, no error.
const FRAME: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// How far the notice of one connection is.
#[derive(Debug, Default)]
pub(super) struct Notice {
    /// What was written before was flushed: h2 flushes whole frames only. Not so before its SETTINGS, which come first.
    between_frames: bool,
    written: usize,
    flushed: bool,
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

    /// Writes the notice once, if it may stand here. Ready also where it may not.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.between_frames || self.flushed {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = FRAME.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
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
        std::future::poll_fn(|cx| notice.poll(&mut ours, cx)).await.expect("not yet");
        assert_eq!(notice.written, 0, "a frame is being written");
        ours.write_all(b"frame").await.expect("write");
        notice.frames_ended();
        for _ in 0..2 {
            std::future::poll_fn(|cx| notice.poll(&mut ours, cx)).await.expect("written");
        }
        drop(ours);
        assert_eq!(reading.await.expect("joined").expect("read"), [b"frame".as_slice(), &FRAME].concat());
    }
}
