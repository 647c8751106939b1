//! The floods of HTTP/2's history beside those of `floods`: each ends or is answered within its bound, is counted, and harms
//! nobody beside it.

use std::time::Duration;

use proxy::{limits::Limits, observe::Counter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{frames::*, support::*};

/// A client that asks all the time, until it is told to stop: how many requests, none of them failed.
struct Good {
    stop: tokio::sync::oneshot::Sender<()>,
    asking: tokio::task::JoinHandle<u32>,
}

impl Good {
    fn beside(rig: &Rig) -> Self {
        let addr = rig.addr;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let asking = tokio::spawn(async move {
            let (mut first, mut second) = (h1(connect(addr).await).await, h2(connect(addr).await).await);
            let mut asked = 0;
            while stopped.try_recv().is_err() {
                let response = first.send_request(get("/")).await.expect("HTTP/1.1");
                assert_eq!(response.status(), 200);
                text(response).await;
                first.ready().await.expect("the connection is kept");
                assert_eq!(second.send_request(get2("/")).await.expect("HTTP/2").status(), 200);
                asked += 1;
            }
            asked
        });
        Self { stop, asking }
    }

    async fn end_unharmed(self) {
        let _asks_still = self.stop.send(());
        assert!(self.asking.await.expect("no request fails") > 0);
    }
}

async fn connect(addr: std::net::SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}

/// Sends the same bytes until the proxy closes, without reading; gives how many were taken.
async fn flood(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    let mut sent = 0;
    let sending = async {
        while sent < most {
            match stream.write(bytes).await {
                Ok(count) => sent += count,
                Err(_closed) => return,
            }
        }
    };
    // What is not taken any longer is as good as closed: nothing more piles up.
    let _stuck = tokio::time::timeout(Duration::from_secs(2), sending).await;
    sent
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn acknowledgements_that_nobody_reads_are_bounded() {
    let rig = Rig::start(Table::new(upstream().await));
    let good = Good::beside(&rig);
    for (name, bytes) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("SETTINGS without content", frame(SETTINGS, 0, 0, &[])),
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("resets of streams that were not opened", cancel(1)),
    ] {
        let mut stream = raw_h2(&rig).await;
        // 64 MiB of frames would be millions of acknowledgements; sockets hold a few MiB.
        let sent = flood(&mut stream, &bytes.repeat(1000), 64 * MIB).await;
        assert!(sent < 64 * MIB, "{name}: {sent} bytes were taken from a client that reads nothing");
        drop(stream);
        until("it is gone", || rig.observe.render().contains("selvedge_downstream_open 2")).await;
    }
    good.end_unharmed().await;
}

#[tokio::test]
async fn frames_without_content_end_their_connection() {
    let rig = Rig::start(Table::new(upstream().await));
    let good = Good::beside(&rig);
    let open = |path| frame(HEADERS, END_HEADERS, 1, &block(path));
    // Nobody reads the body of the first; the second one's upstream does.
    for path in ["/never", "/count"] {
        let before = rig.total(Counter::EmptyFrames);
        let mut stream = raw_h2(&rig).await;
        stream.write_all(&open(path)).await.unwrap();
        let empty = frame(DATA, 0, 1, &[]);
        let sent = flood(&mut stream, &empty.repeat(1000), 64 * MIB).await;
        assert!(sent < 64 * MIB, "{path}: {sent}");
        drop(stream);
        until("it is counted", || rig.total(Counter::EmptyFrames) > before).await;
    }
    good.end_unharmed().await;
}

/// A name, and what breaks a stream.
type Break = (&'static str, fn(u32) -> Vec<u8>);

fn in_flight(rig: &Rig, count: usize) -> bool {
    rig.observe.render().contains(&format!("selvedge_requests_active {count}\n"))
}

#[tokio::test]
async fn resets_that_a_client_provokes_count_as_its_own() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut good = rig.h2().await;
    // MadeYouReset (CVE-2025-8671): each stream is opened in good order, then broken so that we reset it.
    let breaks: [Break; 2] = [
        ("a window beyond its size", |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])),
        ("a body longer than its length", |stream| frame(DATA, END_STREAM, stream, b"xx")),
    ];
    for (name, broken) in breaks {
        let (before, cut) = (rig.failures("downstream_reset"), rig.total(Counter::MaxResets));
        let mut stream = raw_h2(&rig).await;
        let (mut reading, mut writing) = stream.split();
        // Each is served before it is broken: what is reset before costs nothing.
        let attack = async {
            let is_cut = || rig.total(Counter::MaxResets) > cut;
            for id in streams().take(5000) {
                let head = [block("/never"), literal(b"content-length", b"1")].concat();
                let taken = writing.write_all(&frame(HEADERS, END_HEADERS, id, &head)).await.is_ok();
                until("served, or cut", || is_cut() || in_flight(&rig, 1)).await;
                if !taken || writing.write_all(&broken(id)).await.is_err() {
                    return std::future::pending().await;
                }
                until("reset", || is_cut() || in_flight(&rig, 0)).await;
            }
        };
        let mut buffer = vec![0; 65536];
        let reads = async { while reading.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
        tokio::select! {
            () = reads => {}
            () = attack => panic!("{name}: never cut"),
        }
        until(name, || rig.total(Counter::MaxResets) == cut + 1).await;
        let begun = rig.failures("downstream_reset") - before;
        assert!((1..=1000).contains(&begun), "{name}: {begun} of 5000 were begun");
        assert_eq!(good.send_request(get2("/")).await.unwrap().status(), 200, "{name}");
    }
}

#[tokio::test]
async fn small_heads_that_become_large_are_refused() {
    let rig = Rig::start(Table::new(upstream().await));
    let good = Good::beside(&rig);
    // The first request puts a field into the table; references of one byte repeat it.
    for (name, field) in [
        ("HPACK bomb", literal(b"x-bomb", &[b'b'; 3000])),
        ("references to a field of nothing", literal(b"x", b"")),
        ("cookie crumbs", literal(b"cookie", b"a=b")),
    ] {
        let indexed = [&[0x40][..], &field[1..]].concat();
        let mut stream = raw_h2(&rig).await;
        let first = [&block("/"), &indexed[..]].concat();
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &first)).await.unwrap();
        while next_frame(&mut stream).await.expect("answered").stream != 1 {}
        let before = rig.total(Counter::HeadersTooLarge);
        for id in streams().skip(1).take(50) {
            // 0xbe: the newest entry of the dynamic table; nothing is added to it.
            let bomb = [b"\x82\x86\x01\x01a\x04\x01/".as_slice(), &[0xbe; 14_000]].concat();
            drop(stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, id, &bomb)).await);
        }
        until(name, || rig.total(Counter::HeadersTooLarge) > before).await;
    }
    good.end_unharmed().await;
}

#[tokio::test]
async fn windows_that_never_open_hold_a_stream_no_longer_than_its_timeout() {
    let limits = Limits { stream_idle_timeout: Duration::from_millis(500), ..Limits::default() };
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, limits, http());
    // SETTINGS_INITIAL_WINDOW_SIZE = 0: the answers can never be sent.
    let mut stream = raw_h2_with(&rig, &[0, 4, 0, 0, 0, 0]).await;
    let hundred: Vec<u8> = streams().take(100).flat_map(|id| request(id, "/stall")).collect();
    stream.write_all(&hundred).await.unwrap();
    until("all of them are cut", || rig.failures("stream_idle_timeout") == 100).await;
    assert_eq!(rig.total(Counter::StreamIdleTimeout), 100);
    until("nothing is held", || rig.observe.render().contains("selvedge_requests_active 0")).await;
    // A dribble of one byte at a time keeps its stream as long as bytes move, and then loses it as well. `/stall` has five.
    let mut dribble = raw_h2_with(&rig, &[0, 4, 0, 0, 0, 0]).await;
    dribble.write_all(&request(1, "/stall")).await.unwrap();
    for _ in 0..5 {
        dribble.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.unwrap();
        while next_frame(&mut dribble).await.expect("open").kind != DATA {}
    }
    until("it is cut", || rig.failures("stream_idle_timeout") == 101).await;
}

#[tokio::test]
async fn broken_windows_and_frames_end_what_they_break() {
    let rig = Rig::start(Table::new(upstream().await));
    let good = Good::beside(&rig);
    for (name, bytes) in [
        ("a window beyond its size", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)),
        ("an update of zero", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window of SETTINGS beyond its size", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a frame beyond the maximum", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("DATA for nobody", frame(DATA, 0, 1, b"x")),
        ("an even stream", request(2, "/")),
        ("CONTINUATION without a beginning", frame(CONTINUATION, END_HEADERS, 1, &block("/"))),
        ("padding beyond its frame", frame(HEADERS, END_STREAM | END_HEADERS | 8, 1, &[255, 0x82])),
        ("no HPACK", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
        ("a table beyond its size", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f])),
        ("a PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
    ] {
        let mut stream = raw_h2(&rig).await;
        stream.write_all(&bytes).await.unwrap();
        let said = is_closed(&mut stream).await;
        assert!(said.windows(4).any(|head| head == [8, GOAWAY, 0, 0]), "{name}: {said:?}");
    }
    good.end_unharmed().await;
}

#[tokio::test]
async fn priorities_cost_nothing() {
    let rig = Rig::start(Table::new(upstream().await));
    let good = Good::beside(&rig);
    let mut stream = raw_h2(&rig).await;
    let block: Vec<u8> = streams()
        .take(10_000)
        .flat_map(|id| frame(PRIORITY, 0, id, &[&(id + 2).to_be_bytes()[..], &[255]].concat()))
        .collect();
    for _ in 0..20 {
        stream.write_all(&block).await.unwrap();
    }
    stream.write_all(&request(30_001, "/")).await.unwrap();
    while next_frame(&mut stream).await.expect("open").stream != 30_001 {}
    good.end_unharmed().await;
}
