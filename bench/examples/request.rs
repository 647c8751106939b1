//! Proxies requests in memory, from a client's bytes to an origin's and back: the program that `request.sh` runs under
//! callgrind. `request REQUESTS off|json`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use bench::table_of;
use proxy::{
    in_memory::InMemory,
    observe::{AccessLog, Observe},
    route::{RouteIx, Router as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime::{Builder, LocalOptions, LocalRuntime},
    task::spawn_local,
};

const REQUEST: &[u8] =
    b"GET /service-00003/orders/17 HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: bench\r\n\
                         accept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
/// As many as in the smallest of the decisions that are counted.
const MAPPINGS: usize = 10;
/// As much as a socket takes at once.
const PIPE: usize = 64 * 1024;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone there is nobody to tell.
            let _unwritable = writeln!(io::stderr(), "request: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: request REQUESTS off|json");
    let count: usize = next()?.parse().context("REQUESTS is a number")?;
    let log = match next()?.as_str() {
        "off" => AccessLog::Off,
        "json" => AccessLog::Json,
        other => bail!("`{other}` is neither off nor json"),
    };
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let observe = Observe::logging_to(log, io::sink());
    let mut client = runtime.block_on(connect(Arc::clone(&observe)))?;
    // Caches, buffers and the first look at everything are not counted.
    proxy_all(&runtime, &mut client, 20)?;
    proxy_all(&runtime, &mut client, count)?;
    observe.flush();
    Ok(())
}

/// The measured part: callgrind collects from its entry to its exit, when it is told to by its second call.
#[inline(never)]
fn proxy_all(runtime: &LocalRuntime, client: &mut DuplexStream, count: usize) -> anyhow::Result<()> {
    runtime.block_on(async {
        let mut answer = vec![0; PIPE];
        for _ in 0..count {
            client.write_all(REQUEST).await?;
            let mut have = 0;
            while !is_whole(answer.get(..have).unwrap_or_default())? {
                let read = client.read(answer.get_mut(have..).unwrap_or_default()).await?;
                ensure!(read > 0, "the answer was cut");
                have += read;
            }
        }
        Ok(())
    })
}

fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "not 200: {}", String::from_utf8_lossy(answer));
    Ok(answer.len() == end + 4 + 1024)
}

/// Mappings whose upstreams need no look-up.
fn manifests() -> String {
    let mapping = |index: usize| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: m{index}\nspec:\n  \
             hostname: \"*\"\n  prefix: /service-{index:05}/\n  service: 10.0.0.{index}:8080\n"
        )
    };
    (0..MAPPINGS).map(mapping).collect()
}

/// A client's end of a connection that the real engine serves, with one upstream connection in the pool.
async fn connect(observe: Arc<Observe>) -> anyhow::Result<DuplexStream> {
    let table = table_of(&manifests(), MAPPINGS)?;
    let conn = bench::connection(&table)?;
    let worker = Rc::new(InMemory::new(Arc::clone(&table), observe));
    let (ours, origin) = duplex(PIPE);
    spawn_local(answer_all(origin));
    let route = (0..)
        .map(|ix| table.route(RouteIx(ix)))
        .take(MAPPINGS)
        .find(|route| route.cluster.key.service.host.ends_with(".3"))
        .context("no route to 10.0.0.3")?;
    worker.upstream(route, ours).await?;
    let (ours, client) = duplex(PIPE);
    spawn_local(async move { worker.serve(conn, ours).await });
    Ok(client)
}

/// The origin: an answer for each head.
async fn answer_all(mut pipe: DuplexStream) -> anyhow::Result<()> {
    let answer: Vec<u8> = ANSWER.iter().copied().chain(std::iter::repeat_n(b'x', 1024)).collect();
    let mut head = vec![0; 4096];
    loop {
        let read = pipe.read(&mut head).await?;
        if read == 0 {
            return Ok(());
        }
        ensure!(head.get(..read).unwrap_or_default().ends_with(b"\r\n\r\n"), "half a head");
        pipe.write_all(&answer).await?;
    }
}
