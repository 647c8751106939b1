//! Targets and hosts: what is routed is what is forwarded, and no customary reading of a backend leads elsewhere.

use super::*;

/// A target and the fields about its host; target and host as they go on, `None`: 400.
type Case<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>);

async fn table(cases: &[Case<'_>]) {
    for (target, host, want) in cases {
        for protocol in BOTH {
            let bench = Bench::start(protocol).await;
            let head = format!("GET {target} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
            let answer = bench.rig.raw(head.as_bytes()).await;
            let name = format!("{protocol:?} {target:?} {host:?}: {answer}");
            let seen = bench.seen(&name);
            if let Some((target, host)) = want {
                assert!(answer.starts_with("HTTP/1.1 200"), "{name}");
                let [seen] = &seen[..] else { panic!("{name}: {seen:?}") };
                assert_eq!((seen.target.as_str(), seen.host.as_str()), (*target, *host), "{name}");
            } else {
                assert!(answer.starts_with("HTTP/1.1 4"), "{name}");
                assert!(bench.record.is_empty(), "{name}: {seen:?}");
            }
        }
    }
}

const A: &str = "host: a\r\n";

#[tokio::test]
async fn paths_have_one_reading() {
    let to = |target| Some((target, "a"));
    table(&[
        ("/a/../b", A, to("/b")),
        ("/a/./b", A, to("/a/b")),
        ("/../../b", A, to("/b")),
        ("/a/%2e%2e/b", A, to("/b")),
        ("/a/%2E./b", A, to("/b")),
        ("/a/.%2e", A, to("/")),
        ("/a\\..\\b", A, to("/b")),
        ("/a//b", A, to("/a//b")),
        ("//a/b", A, to("//a/b")),
        ("/a;x=1/b", A, to("/a;x=1/b")),
        ("/a%3b/b", A, to("/a%3b/b")),
        ("/a%2fb", A, to("/a%2fb")),
        ("/a%5Cb", A, to("/a%5Cb")),
        ("/%41%62", A, to("/Ab")),
        ("/a%252e%252e/b", A, to("/a%252e%252e/b")),
        ("/a?b/../c", A, to("/a?b/../c")),
        ("/a?b?c", A, to("/a?b?c")),
        ("/a?", A, to("/a?")),
        ("/a/..%2fb", A, None),
        ("/a/%2e%2e%2fb", A, None),
        ("/a/..%5cb", A, None),
        ("/a/..;/b", A, None),
        ("/a/..;x/b", A, None),
        ("/a/%2e%2e;/b", A, None),
        ("/a%00b", A, None),
        ("/a%0", A, None),
        ("/a%zz", A, None),
        ("/a%", A, None),
        ("/a%u002e", A, None),
        ("/a#b", A, None),
        ("/a?b#c", A, None),
        ("/a\u{7f}", A, None),
        ("/a\0", A, None),
        ("/a\x0bb", A, None),
        ("/a b", A, None),
        ("a", A, None),
        ("./a", A, None),
        ("?a", A, None),
        ("", A, None),
        ("*x", A, None),
        ("a/../b", A, None),
        ("\\a", A, None),
    ])
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_ascii_have_one_reading() {
    // Overlong UTF-8 of `.` and `/`, raw and escaped; a backend that decodes it would leave its folder.
    for (path, want) in [
        (&b"/a/\xc0\xae\xc0\xae/b"[..], None),
        (b"/a/\xc0\xaf", None),
        (b"/a/\xff", None),
        (b"/a/\xe2\x88\x95b", Some("/a/%E2%88%95b")),
        (b"/a?\xff", None),
        (b"/a/%c0%ae%c0%ae/b", Some("/a/%c0%ae%c0%ae/b")),
        (b"/a/%c0%af..", Some("/a/%c0%af..")),
    ] {
        for protocol in BOTH {
            let bench = Bench::start(protocol).await;
            let head = [b"GET ", path, b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat();
            let answer = bench.rig.raw(&head).await;
            let name = format!("{protocol:?} {:?}: {answer}", String::from_utf8_lossy(path));
            let seen: Vec<_> = bench.seen(&name).into_iter().map(|seen| seen.target).collect();
            assert_eq!(seen, want.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}

#[tokio::test]
async fn hosts_have_one_reading() {
    let to = |target, host| Some((target, host));
    table(&[
        ("/", "Host: A.Example\r\n", to("/", "a.example")),
        ("/", "host: a:8080\r\n", to("/", "a:8080")),
        ("/", "host: [::1]:80\r\n", to("/", "[::1]:80")),
        ("/", "host:  a  \r\n", to("/", "a")),
        ("http://b/x", A, to("/x", "b")),
        ("HTTP://B:80/x", A, to("/x", "b:80")),
        ("https://b/x", A, to("/x", "b")),
        ("http://b", A, to("/", "b")),
        ("http://b?x", A, to("/?x", "b")),
        ("http://b/a/../c", A, to("/c", "b")),
        ("http://b/x", "", to("/x", "b")),
        ("/", "host: a\r\nx-forwarded-host: forged\r\n", to("/", "a")),
        ("/", "host: a\r\nhost: a\r\n", None),
        ("/", "host: a\r\nHOST: b\r\n", None),
        ("/", "", None),
        ("/", "host:\r\n", None),
        ("/", "host: a, b\r\n", None),
        ("/", "host: a b\r\n", None),
        ("/", "host: u@a\r\n", None),
        ("/", "host: u:p@a\r\n", None),
        ("/", "host: a/b\r\n", None),
        ("/", "host: a\\b\r\n", None),
        ("/", "host: a?b\r\n", None),
        ("/", "host: a#b\r\n", None),
        ("/", "host: a:\r\n", None),
        ("/", "host: a:0x50\r\n", None),
        ("/", "host: a:80:80\r\n", None),
        ("/", "host: a:65536\r\n", None),
        ("/", "host: a:-1\r\n", None),
        ("/", "host: :80\r\n", None),
        ("/", "host: [::1\r\n", None),
        ("/", "host: ::1]\r\n", None),
        ("/", "host: a\u{e9}\r\n", None),
        ("/", "host: a\0b\r\n", None),
        ("/", "host: a;b\r\n", None),
        ("/", "host: a'b\r\n", None),
        ("/", "host: \"a\"\r\n", None),
        ("/", "host : a\r\n", None),
        ("/", " host: a\r\n", None),
        ("/", "host: a\r\n b\r\n", None),
        ("http://u@b/x", A, None),
        ("http://u:p@b/x", A, None),
        ("http:///x", A, None),
        ("http://", A, None),
        ("http:/x", A, None),
        ("http:x", A, None),
        ("//b/x", A, to("//b/x", "a")),
        ("ftp://b/x", A, None),
        ("ws://b/x", A, None),
        ("javascript:x", A, None),
        ("b:80", A, None),
        ("http://b:x/", A, None),
        ("http://b:99999/", A, None),
        ("http://b c/", A, None),
        ("http://b\\@a/", A, None),
        ("http://a%2eb/", A, None),
    ])
    .await;
}
