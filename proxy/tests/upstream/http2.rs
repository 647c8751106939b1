//! HTTP/2: shared connections, the peer's limit of streams, and what the peer did not process.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::Response;
use proxy::{
    Reason, Retry,
    observe::Counter,
    upstream::{ClusterPolicy, Protocol},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
};

use super::support::*;

/// An HTTP/2 upstream that counts, and answers when the test lets it.
struct Counting {
    addr: SocketAddr,
    connections: Rc<Cell<usize>>,
    active: Rc<Cell<usize>>,
    most: Rc<Cell<usize>>,
    answers: Rc<Semaphore>,
}

impl Counting {
    async fn start(max_streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            addr: listener.local_addr().unwrap(),
            connections: Rc::default(),
            active: Rc::default(),
            most: Rc::default(),
            answers: Rc::new(Semaphore::new(0)),
        };
        let (connections, counts) =
            (Rc::clone(&this.connections), (Rc::clone(&this.active), Rc::clone(&this.most)));
        let answers = Rc::clone(&this.answers);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                let (counts, answers) = (counts.clone(), Rc::clone(&answers));
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(max_streams);
                    let mut conn = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    let here = Rc::new(Cell::new(0));
                    while let Some(Ok((request, mut respond))) = conn.accept().await {
                        assert_eq!(request.uri(), "http://orders.shop/");
                        here.set(here.get() + 1);
                        assert!(here.get() <= max_streams as usize);
                        counts.0.set(counts.0.get() + 1);
                        counts.1.set(counts.1.get().max(counts.0.get()));
                        let (counts, answers, here) = (counts.clone(), Rc::clone(&answers), Rc::clone(&here));
                        tokio::task::spawn_local(async move {
                            answers.acquire().await.unwrap().forget();
                            counts.0.set(counts.0.get() - 1);
                            here.set(here.get() - 1);
                            respond.send_response(Response::new(()), true).unwrap();
                        });
                    }
                });
            }
        });
        this
    }
}

fn limited(rig: &Rig, addr: SocketAddr, connections: usize) -> proxy::route::Route {
    let cluster = rig.cluster(Protocol::Http2, &[addr]);
    let policy = ClusterPolicy { max_h2_connections: connections, ..ClusterPolicy::default() };
    cluster.policy.store(Arc::new(policy));
    route(&cluster)
}

#[test]
fn a_burst_shares_one_connection() {
    local(async {
        let rig = Rig::new();
        let server = Counting::start(100).await;
        let route = limited(&rig, server.addr, 4);
        let (answers, ()) =
            tokio::join!(futures_util::future::join_all((0..20).map(|_| rig.get(&route))), async {
                until("all are there", || server.active.get() == 20).await;
                server.answers.add_permits(20);
            });
        assert!(answers.iter().all(|answer| answer.status == 200));
        assert_eq!(server.connections.get(), 1);
        assert_eq!(rig.total(Counter::Retries), 0);
    });
}

#[test]
fn the_peers_limit_of_streams_opens_more_connections_then_requests_wait() {
    local(async {
        let rig = Rig::new();
        let server = Counting::start(2).await;
        let route = limited(&rig, server.addr, 2);
        let (answers, ()) =
            tokio::join!(futures_util::future::join_all((0..9).map(|_| rig.get(&route))), async {
                until("two connections are full", || server.active.get() == 4).await;
                server.answers.add_permits(9);
            });
        assert!(answers.iter().all(|answer| answer.status == 200));
        assert_eq!((server.connections.get(), server.most.get()), (2, 4));
        assert_eq!(rig.total(Counter::Retries), 0);
    });
}

#[test]
fn a_request_that_finds_no_stream_in_time_is_an_overflow() {
    local(async {
        let rig = Rig::new();
        let server = Counting::start(1).await;
        let route = limited(&rig, server.addr, 1);
        let policy = ClusterPolicy {
            max_h2_connections: 1,
            connect_timeout: Some(std::time::Duration::from_millis(200)),
            ..ClusterPolicy::default()
        };
        route.cluster.policy.store(Arc::new(policy));
        let (first, ()) = tokio::join!(rig.get(&route), async {
            until("the stream is taken", || server.active.get() == 1).await;
            let error = rig.ask(&route, get("/")).await.0.unwrap_err();
            assert_eq!((error.reason(), error.status().as_u16()), (Reason::OVERFLOW, 503));
            server.answers.add_permits(1);
        });
        assert_eq!(first.status, 200);
    });
}

/// An HTTP/2 peer of which the test plays every frame.
struct Frames {
    stream: TcpStream,
}

const HEADERS: u8 = 1;

impl Frames {
    async fn accept(listener: &TcpListener) -> Self {
        let mut stream = listener.accept().await.unwrap().0;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert!(preface.starts_with(b"PRI * HTTP/2.0"));
        let mut this = Self { stream };
        this.send(4, 0, 0, &[]).await;
        this
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = len[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Reads a whole request: its stream and its body.
    async fn request(&mut self) -> (u32, Vec<u8>) {
        let (mut id, mut body) = (0, Vec::new());
        loop {
            let (kind, flags, stream, payload) = self.next().await.expect("a request");
            match kind {
                HEADERS => id = stream,
                0 => body.extend(payload),
                _ => continue,
            }
            if flags & 1 != 0 {
                return (id, body);
            }
        }
    }

    /// `:status: 200` from the static table, and the end of the stream.
    async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, 0x5, stream, &[0x88]).await;
    }

    async fn refuse(&mut self, stream: u32) {
        self.send(3, 0, stream, &7u32.to_be_bytes()).await;
    }

    async fn goaway(&mut self, last: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(0u32.to_be_bytes());
        self.send(7, 0, 0, &payload).await;
    }

    async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}

#[test]
fn a_refused_stream_is_sent_again_even_with_a_body() {
    local(async {
        let rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = limited(&rig, listener.local_addr().unwrap(), 1);
        let request = post(b"pay 5").await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, request), async {
            let mut peer = Frames::accept(&listener).await;
            let (id, body) = peer.request().await;
            assert_eq!(body, b"pay 5");
            peer.refuse(id).await;
            let (id, body) = peer.request().await;
            assert_eq!(body, b"pay 5");
            peer.answer(id).await;
        });
        assert_eq!((answer.unwrap().status, attempts.count), (200, 2));
    });
}

#[test]
fn an_answer_that_is_reset_before_its_end_never_looks_whole() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::new();
        let route = route(&rig.cluster(Protocol::Http2, &[listener.local_addr().unwrap()]));
        let ((), mut peer) = tokio::join!(
            async {
                for (code, whole) in [(0_u32, false), (8, false), (2, false), (0, true)] {
                    let (answer, _) = rig.ask(&route, get("/")).await;
                    let body = answer.expect("a head").body;
                    assert_eq!(body.is_some(), whole, "code {code}: {body:?}");
                }
            },
            async {
                let mut peer = Frames::accept(&listener).await;
                for (code, whole) in [(0_u32, false), (8, false), (2, false), (0, true)] {
                    let (stream, _) = peer.request().await;
                    peer.send(HEADERS, 0x4, stream, &[0x88]).await;
                    peer.send(0, u8::from(whole), stream, b"part").await;
                    peer.send(3, 0, stream, &code.to_be_bytes()).await;
                }
                peer
            }
        );
        drop((route, rig));
        peer.closed().await;
    });
}

#[test]
fn refusals_without_end_are_bounded() {
    local(async {
        let rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = limited(&rig, listener.local_addr().unwrap(), 1);
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, get("/")), async {
            let mut peer = Frames::accept(&listener).await;
            for _ in 0..4 {
                let (id, _) = peer.request().await;
                peer.refuse(id).await;
            }
        });
        let error = answer.unwrap_err();
        assert_eq!((error.retry(), attempts.count), (Retry::Refused, 4));
    });
}

#[test]
fn goaway_lets_older_streams_finish_and_sends_newer_ones_again() {
    local(async {
        let rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = limited(&rig, listener.local_addr().unwrap(), 1);
        let (first_there, ready) = oneshot::channel();
        let upstream = async {
            let mut old = Frames::accept(&listener).await;
            let (first, _) = old.request().await;
            first_there.send(()).unwrap();
            let (second, body) = old.request().await;
            assert!(second > first && body == b"pay 5");
            old.goaway(first).await;
            let mut new = Frames::accept(&listener).await;
            let (again, body) = new.request().await;
            assert_eq!(body, b"pay 5");
            new.answer(again).await;
            old.answer(first).await;
            old.closed().await;
        };
        let second = async {
            ready.await.unwrap();
            rig.ask(&route, post(b"pay 5").await).await
        };
        let ((first, attempts), (second, more), ()) =
            tokio::join!(rig.ask(&route, get("/")), second, upstream);
        assert_eq!((first.unwrap().status, attempts.count), (200, 1));
        assert_eq!((second.unwrap().status, more.count), (200, 2));
    });
}

#[test]
fn a_connection_that_dies_under_its_streams_repeats_only_what_is_idempotent() {
    local(async {
        let rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = limited(&rig, listener.local_addr().unwrap(), 1);
        let (_, mut peer) = tokio::join!(rig.get(&route), async {
            let mut peer = Frames::accept(&listener).await;
            let (id, _) = peer.request().await;
            peer.answer(id).await;
            peer
        });
        let ((answer, attempts), (posted, once), ()) = tokio::join!(
            rig.ask(&route, get("/")),
            async { rig.ask(&route, post(b"pay 5").await).await },
            async {
                let _both = (peer.request().await, peer.request().await);
                drop(peer);
                let mut new = Frames::accept(&listener).await;
                let (id, body) = new.request().await;
                assert!(body.is_empty(), "the POST came twice");
                new.answer(id).await;
            }
        );
        assert_eq!((answer.unwrap().status, attempts.count), (200, 2));
        assert_eq!((posted.unwrap_err().reason(), once.count), (Reason::UPSTREAM_RESET, 1));
    });
}

#[test]
fn a_request_that_is_given_up_resets_its_stream_alone() {
    local(async {
        let rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = limited(&rig, listener.local_addr().unwrap(), 1);
        let mut attempts = proxy::upstream::Attempts::default();
        let mut sending = Box::pin(rig.upstream.send(&route, get("/"), &mut attempts));
        let (mut peer, given_up) = tokio::select! {
            _ = &mut sending => panic!("no answer was sent"),
            there = async {
                let mut peer = Frames::accept(&listener).await;
                let (id, _) = peer.request().await;
                (peer, id)
            } => there,
        };
        drop(sending);
        let reset = loop {
            let (kind, _, stream, _) = peer.next().await.unwrap();
            if kind == 3 {
                break stream;
            }
        };
        assert_eq!(reset, given_up);
        let (answer, ()) = tokio::join!(rig.get(&route), async {
            let (id, _) = peer.request().await;
            peer.answer(id).await;
        });
        assert_eq!(answer.status, 200);
    });
}

#[test]
fn an_upstream_that_does_not_speak_http2_is_named() {
    local(async {
        let rig = Rig::new();
        let server = Scripted::bind().await;
        let route = limited(&rig, server.addr(), 1);
        let ((answer, _), ()) = tokio::join!(rig.ask(&route, get("/")), async {
            let mut peer = server.accept().await;
            peer.write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            peer.closed().await;
        });
        let error = answer.unwrap_err();
        assert_eq!((error.reason(), error.status().as_u16()), (Reason::UPSTREAM_PROTOCOL, 503), "{error}");
    });
}
