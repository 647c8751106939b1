//! Names: DNS by TTL, last good kept, what a request sees while there is no answer.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use proxy::{
    Reason,
    upstream::{
        Cluster, Clusters, EndpointOrigin, Known, Protocol, Resolver, ServiceRef, Tag, Transport,
        TransportKey,
    },
};
use tokio::{net::UdpSocket, runtime::Handle};

use super::support::*;

/// What the name server says.
#[derive(Clone)]
enum Says {
    Nothing,
    NoSuchName,
    Addresses(Vec<IpAddr>, u32),
}

struct NameServer {
    addr: SocketAddr,
    says: Arc<Mutex<Says>>,
    /// Names it was asked for.
    asked: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl NameServer {
    async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let addr = socket.local_addr().expect("addr");
        let says = Arc::new(Mutex::new(says));
        let asked = Arc::<Mutex<HashSet<_>>>::default();
        let (told, heard) = (Arc::clone(&says), Arc::clone(&asked));
        tokio::task::spawn_local(async move {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                let says = told.lock().clone();
                heard.lock().insert(query[12..len].iter().copied().take_while(|byte| *byte != 0).collect());
                if let Some(answer) = answer(&query[..len], &says) {
                    socket.send_to(&answer, from).await.expect("send");
                }
            }
        });
        Self { addr, says, asked }
    }

    fn resolver(&self) -> Resolver {
        Resolver::with_nameservers(Handle::current(), &[self.addr])
    }
}

/// RFC 1035, 4: one question, and its answers by a pointer to the name.
fn answer(query: &[u8], says: &Says) -> Option<Vec<u8>> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0)?;
    let question = &query[12..name_end + 5];
    let kind = u16::from_be_bytes([query[name_end + 1], query[name_end + 2]]);
    let (code, addresses, ttl) = match says {
        Says::Nothing => return None,
        Says::NoSuchName => (3, Vec::new(), 0),
        Says::Addresses(addresses, ttl) => {
            let wanted = |ip: &&IpAddr| if kind == 1 { ip.is_ipv4() } else { ip.is_ipv6() && kind == 28 };
            (0, addresses.iter().filter(wanted).copied().collect(), *ttl)
        }
    };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).ok()?, 0, 0, 0, 0]);
    out.extend(question);
    for ip in addresses {
        let data = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

fn named(clusters: &Clusters, host: &str, port: u16) -> Arc<Cluster> {
    let service = ServiceRef { host: host.into(), port };
    let key = TransportKey { service, protocol: Protocol::Http1, tls: None, tag: Tag::default() };
    clusters.get(&key, &host.into(), &EndpointOrigin::Dns, || Transport::Plain)
}

fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.endpoints().iter().map(|endpoint| endpoint.addr).collect()
}

#[test]
fn a_name_is_resolved_and_followed_by_its_ttl() {
    local(async {
        let rig = Rig::new();
        let server = Friendly::start("127.0.0.1:0", "found").await.unwrap();
        let port = server.addr.port();
        let v4 = server.addr.ip();
        let dns = NameServer::start(Says::Addresses(vec![v4, "::1".parse().unwrap()], 1)).await;
        let clusters = Clusters::new(Some(dns.resolver()));
        let cluster = named(&clusters, "orders.test.", port);
        assert_eq!(rig.get(&route(&cluster)).await.text(), "found", "the request waits for the first answer");
        assert_eq!(addresses(&cluster), [server.addr, SocketAddr::new("::1".parse().unwrap(), port)]);
        *dns.says.lock() = Says::Addresses(vec!["127.0.0.9".parse().unwrap()], 1);
        let changed = || addresses(&cluster) == [SocketAddr::new("127.0.0.9".parse().unwrap(), port)];
        until("the new address is taken after the ttl", changed).await;
        *dns.says.lock() = Says::NoSuchName;
        until("the problem is visible", || matches!(*cluster.known().borrow(), Known::Failed(_))).await;
        assert!(changed(), "the last good addresses stay");
    });
}

#[test]
fn a_name_that_does_not_exist_is_its_own_reason() {
    local(async {
        let rig = Rig::new();
        for says in [Says::NoSuchName, Says::Addresses(Vec::new(), 60)] {
            let dns = NameServer::start(says).await;
            let clusters = Clusters::new(Some(dns.resolver()));
            let (answer, _) = rig.ask(&route(&named(&clusters, "nobody.test.", 80)), get("/")).await;
            let error = answer.unwrap_err();
            assert_eq!((error.reason(), error.status().as_u16()), (Reason::UPSTREAM_DNS, 503), "{error}");
        }
    });
}

#[test]
fn a_silent_name_server_costs_the_connect_timeout() {
    local(async {
        let rig = Rig::new();
        let dns = NameServer::start(Says::Nothing).await;
        let clusters = Clusters::new(Some(dns.resolver()));
        let cluster = named(&clusters, "slow.test.", 80);
        let mut policy = (**cluster.policy.load()).clone();
        policy.connect_timeout = Some(Duration::from_millis(80));
        cluster.policy.store(Arc::new(policy));
        let begin = tokio::time::Instant::now();
        let error = rig.ask(&route(&cluster), get("/")).await.0.unwrap_err();
        assert_eq!(error.reason(), Reason::UPSTREAM_DNS);
        assert!((80..1000).contains(&begin.elapsed().as_millis()));
    });
}

#[test]
fn many_names_of_a_silent_name_server_are_asked_a_few_at_a_time() {
    local(async {
        let dns = NameServer::start(Says::Nothing).await;
        let clusters = Clusters::new(Some(dns.resolver()));
        let named: Vec<_> = (0..900).map(|n| named(&clusters, &format!("svc{n}.test."), 80)).collect();
        let asked = || dns.asked.lock().len();
        until("names are asked", || asked() > 0).await;
        // Lookups that are given up come later than this; unbounded, all names are asked at once.
        let more = until("", || asked() > Resolver::MAX_LOOKUPS);
        assert!(tokio::time::timeout(Duration::from_millis(500), more).await.is_err(), "{} asked", asked());
        *dns.says.lock() = Says::Addresses(vec!["127.0.0.1".parse().unwrap()], 60);
        until("all are asked in their turn", || named.iter().all(|cluster| !addresses(cluster).is_empty()))
            .await;
    });
}

#[test]
fn literal_addresses_and_localhost_need_no_dns() {
    local(async {
        let clusters = Clusters::new(Some(Resolver::with_nameservers(Handle::current(), &[])));
        assert_eq!(addresses(&named(&clusters, "10.1.2.3", 80)), ["10.1.2.3:80".parse().unwrap()]);
        assert_eq!(addresses(&named(&clusters, "fd00::1", 80)), ["[fd00::1]:80".parse().unwrap()]);
        let localhost = named(&clusters, "localhost", 81);
        assert_eq!(addresses(&localhost), ["127.0.0.1:81".parse().unwrap(), "[::1]:81".parse().unwrap()]);
    });
}

#[test]
fn clusters_are_kept_by_their_users_alone() {
    local(async {
        let dns = NameServer::start(Says::Addresses(vec!["127.0.0.1".parse().unwrap()], 60)).await;
        let clusters = Clusters::new(Some(dns.resolver()));
        let cluster = named(&clusters, "orders.test.", 80);
        let weak = Arc::downgrade(&cluster);
        assert_eq!(clusters.all().len(), 1);
        assert!(Arc::ptr_eq(&cluster, &named(&clusters, "orders.test.", 80)));
        drop(cluster);
        assert!(weak.upgrade().is_none());
        assert!(clusters.all().is_empty());
    });
}
