//! The load: a fixed number of connections, each of which asks again as soon as its answer is whole (a closed loop).

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinSet, spawn_local},
    time::timeout,
};

use crate::origin::{BODY_BYTES, body};

const REQUEST: &[u8] =
    b"GET /orders/17 HTTP/1.1\r\nhost: shop.bench.local\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";
/// No answer takes that long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
/// Idle connections are opened so many at a time, so that the upstream pool stays as in the load.
const AT_ONCE: usize = 64;

/// A client connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await.with_context(|| format!("no connection to {addr}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// One request and its whole answer, checked byte for byte.
    async fn ask(&mut self, wanted: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(REQUEST).await?;
        self.buffer.clear();
        loop {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            ensure!(read.context("no answer")?? > 0, "the connection ended within an answer");
            if is_whole(&self.buffer, wanted)? {
                return Ok(());
            }
        }
    }
}

/// Whether an answer is there, and the right one.
fn is_whole(answer: &[u8], wanted: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let (head, rest) = answer.split_at(end + 4);
    if !head.starts_with(b"HTTP/1.1 200 ") {
        bail!("a wrong answer: {}", String::from_utf8_lossy(head));
    }
    if rest.len() < BODY_BYTES {
        return Ok(false);
    }
    ensure!(rest == wanted, "a wrong body of {} bytes", rest.len());
    Ok(true)
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    done: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Connections that ask until they are told to stop.
    pub(crate) fn start(addr: SocketAddr, connections: usize) -> Self {
        let (done, stop) = (Rc::<Cell<u64>>::default(), Rc::<Cell<bool>>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (done, stop) = (Rc::clone(&done), Rc::clone(&stop));
            tasks.spawn_local(async move {
                let wanted = body();
                let mut client = Client::open(addr).await?;
                while !stop.get() {
                    client.ask(&wanted).await?;
                    done.set(done.get() + 1);
                }
                Ok(())
            });
        }
        Self { done, stop, tasks }
    }

    /// Whole and right answers so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.get()
    }

    /// Ends the load; an error if any answer was wrong.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.set(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Connections that have asked once and rest now.
pub(crate) async fn idle(addr: SocketAddr, count: usize) -> anyhow::Result<Vec<Client>> {
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let batch: Vec<_> = (0..AT_ONCE.min(count - open.len()))
            .map(|_| {
                spawn_local(async move {
                    let mut client = Client::open(addr).await?;
                    client.ask(&body()).await?;
                    client.buffer = Vec::new();
                    anyhow::Ok(client)
                })
            })
            .collect();
        for client in batch {
            open.push(client.await??);
        }
    }
    Ok(open)
}

/// Asks once more on each: none may have been lost, none may hang.
pub(crate) async fn ask_again(clients: &mut [Client]) -> anyhow::Result<()> {
    for client in clients {
        client.ask(&body()).await.context("after the rest")?;
        client.buffer = Vec::new();
    }
    Ok(())
}
