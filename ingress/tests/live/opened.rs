//! A listener that an edit opens is our own from its first request on: a Mapping to it would ask itself for ever.

use std::net::TcpListener;

use super::harness::{Ingress, client, replace, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_to_a_listener_that_was_opened_later_does_not_go_round() {
    let port = {
        let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
        held.local_addr().expect("address").port()
    };
    let listener = |name: &str, port: u16| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Listener\nmetadata: {{name: {name}}}\nspec: {{port: {port}, \
             protocol: HTTP, securityModel: XFP, hostBinding: {{namespace: {{from: ALL}}}}}}\n"
        )
    };
    let mapping = format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: round}}\nspec: {{hostname: \"*\", \
         prefix: /round/, rewrite: \"\", service: \"127.0.0.1:{port}\"}}\n"
    );
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("all.yaml");
    replace(&file, &(listener("first", 0) + &mapping));
    let ingress = Ingress::start(folder.path(), &[]).await;
    replace(&file, &(listener("first", 0) + &listener("second", port) + &mapping));
    let addr = ([127, 0, 0, 1], port).into();
    until("the second listener is open", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
    let (status, body) = client::get(addr, "any.test", "/round/").await;
    assert_eq!((status, body.as_str()), (503, "no healthy upstream: upstream_address_refused\n"));
    assert_eq!(ingress.access("/round/").await["reason"], "upstream_address_refused");
    assert_eq!(ingress.access_log().len(), 1, "{:?}", ingress.access_log());
}
