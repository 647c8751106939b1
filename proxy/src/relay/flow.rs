//! The two directions of a relay, between two streams of any kind.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::{Reason, message::Tally};

/// What is read at once.
const SCRATCH_BYTES: usize = 32 * 1024;

thread_local! {
    /// What every relay of a worker reads into: a connection at rest holds no buffer. What its other side does not take at
    /// once is copied out, and only then is more read: that is the back-pressure, and the bound.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's.
    Downstream,
    /// The upstream's.
    Upstream,
}

/// How a relay ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both directions were carried to their end.
    Whole,
    /// A side was reset or broke its protocol: the other one must not take what it has for the whole.
    Reset(Side),
    /// A side ended without the goodbye that its protocol has (TLS without `close_notify`), or closed before it had taken
    /// everything. What it had sent is passed on.
    Truncated(Side),
    /// Nothing moved for the idle timeout.
    Idle,
    /// `cut` said so.
    Cut(Reason),
}

impl Ended {
    /// The code for log and metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Whole => Reason::OK,
            Self::Reset(Side::Downstream) | Self::Truncated(Side::Downstream) => Reason::DOWNSTREAM_RESET,
            Self::Reset(Side::Upstream) | Self::Truncated(Side::Upstream) => Reason::UPSTREAM_RESET,
            Self::Idle => Reason::STREAM_IDLE,
            Self::Cut(reason) => reason.clone(),
        }
    }
}

/// Relays until both directions have ended, a side breaks, nothing moves for `idle` (zero: for ever), or `cut` gives a reason.
/// A direction that ends leaves the other one open. The streams are lent: how they are closed is the caller's to choose.
///
/// `up` and `down` count what was handed over to the upstream and to the client.
pub(super) async fn both<A, B>(
    downstream: &mut A,
    upstream: &mut B,
    cut: impl Future<Output = Reason>,
    idle: Duration,
    (up, down): (&Tally, &Tally),
) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut rising, mut falling) = (Flow::default(), Flow::default());
    let mut both = poll_fn(|cx| {
        let rose = rising.poll(cx, downstream, upstream, up);
        let fell = falling.poll(cx, upstream, downstream, down);
        match (rose, fell) {
            (Poll::Ready(Err(failed)), _) if !failed.waits_for(&falling) => {
                Poll::Ready(failed.ends(Side::Downstream, Side::Upstream, &falling))
            }
            (_, Poll::Ready(Err(failed))) if !failed.waits_for(&rising) => {
                Poll::Ready(failed.ends(Side::Upstream, Side::Downstream, &rising))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Whole),
            _ => Poll::Pending,
        }
    });
    let mut cut = pin!(cut);
    loop {
        let rests_until = up.active().max(down.active()) + idle;
        let rested = async {
            if idle.is_zero() {
                std::future::pending::<()>().await;
            }
            sleep_until(rests_until).await;
        };
        tokio::select! {
            biased;
            ended = &mut both => return ended,
            reason = &mut cut => return Ended::Cut(reason),
            () = rested => if up.active().max(down.active()) + idle <= Instant::now() {
                return Ended::Idle;
            },
        }
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    stage: Stage,
    /// Was read and is not written yet, from `written` on.
    rest: Vec<u8>,
    written: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The end was read, and is being said to the other side.
    Ending,
    Ended,
    /// The receiving side takes nothing any more.
    Refused,
}

/// Which end of a direction failed.
enum Failed {
    Reading { truncated: bool },
    Writing,
}

impl Failed {
    /// `other` is the opposite direction. One that said all it had and then takes no more has closed, it was not reset: what it
    /// said is on its way and must arrive.
    fn ends(&self, from: Side, to: Side, other: &Flow) -> Ended {
        match self {
            Self::Reading { truncated: true } => Ended::Truncated(from),
            Self::Reading { truncated: false } => Ended::Reset(from),
            Self::Writing if other.stage == Stage::Ended => Ended::Truncated(to),
            Self::Writing => Ended::Reset(to),
        }
    }

    /// A side that takes no more may have sent an answer before it closed: that is passed on first.
    fn waits_for(&self, other: &Flow) -> bool {
        matches!(self, Self::Writing) && other.is_writing()
    }
}

impl Flow {
    /// Something was read and the other side has not taken it yet.
    fn is_writing(&self) -> bool {
        !self.rest.is_empty()
    }

    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        tally: &Tally,
    ) -> Poll<Result<(), Failed>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            match self.stage {
                Stage::Open => {
                    let moved = ready!(self.write_rest(cx, to, tally));
                    if moved.is_err() {
                        self.refuse();
                        continue;
                    }
                    match ready!(self.carry(cx, from, to, tally)) {
                        Ok(true) => {}
                        Ok(false) => {
                            // A stream of HTTP/2 that was reset has ended, too, and that nothing can be written to it any
                            // longer is known only after others had their turn.
                            cx.waker().wake_by_ref();
                            self.stage = Stage::Ending;
                        }
                        Err(Failed::Writing) => self.refuse(),
                        Err(failed) => return Poll::Ready(Err(failed)),
                    }
                }
                Stage::Ending => match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    Ok(()) => self.stage = Stage::Ended,
                    Err(_gone) => self.refuse(),
                },
                Stage::Ended => return Poll::Ready(Ok(())),
                Stage::Refused => return Poll::Ready(Err(Failed::Writing)),
            }
        }
    }

    fn refuse(&mut self) {
        self.stage = Stage::Refused;
        self.rest = Vec::new();
    }

    /// Writes what waits.
    fn write_rest<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
        tally: &Tally,
    ) -> Poll<io::Result<()>> {
        while let Some(waiting) = self.rest.get(self.written..).filter(|waiting| !waiting.is_empty()) {
            let count = ready!(write(cx, to, waiting, tally))?;
            self.written += count;
        }
        if !self.rest.is_empty() {
            self.rest = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and hands over what came; `false` at the end.
    fn carry<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        tally: &Tally,
    ) -> Poll<Result<bool, Failed>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut read) {
                Poll::Pending => {
                    // Nothing follows for now: what a TLS session or a buffer holds back has to go out. A stream of HTTP/2
                    // that was reset says so here, too.
                    if ready!(Pin::new(to).poll_flush(cx)).is_err() {
                        return Poll::Ready(Err(Failed::Writing));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
                    return Poll::Ready(Err(Failed::Reading { truncated }));
                }
                Poll::Ready(Ok(())) => {}
            }
            let came = read.filled();
            if came.is_empty() {
                return Poll::Ready(Ok(false));
            }
            let taken = match write(cx, to, came, tally) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(_gone)) => return Poll::Ready(Err(Failed::Writing)),
                Poll::Pending => 0,
            };
            self.rest = came.get(taken..).unwrap_or_default().to_vec();
            Poll::Ready(Ok(true))
        })
    }
}

/// Lends the worker's buffer. It is taken out meanwhile: were this ever to happen within itself, the inner one makes its own.
fn with_scratch<T>(carry: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let carried = carry(&mut scratch);
    SCRATCH.set(scratch);
    carried
}

fn write<B: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut B,
    bytes: &[u8],
    tally: &Tally,
) -> Poll<io::Result<usize>> {
    let count = ready!(Pin::new(to).poll_write(cx, bytes))?;
    if count == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    tally.add(count);
    Poll::Ready(Ok(count))
}
