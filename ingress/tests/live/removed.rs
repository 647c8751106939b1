//! What an edit takes away is gone soon after, without another edit: clusters, and what follows their names.

use std::fmt::Write as _;

use super::harness::{Ingress, Upstream, replace, until};

fn mapping(name: &str, service: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
         spec: {{hostname: \"*\", prefix: /{name}/, service: \"{service}\"}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_of_the_first_table_are_gone_soon_after_the_one_edit_that_removes_them() {
    let upstream = Upstream::plain().await;
    let kept = mapping("app", &upstream.addr.to_string());
    let folder = tempfile::tempdir().expect("folder");
    let routes = folder.path().join("routes.yaml");
    let mut text = kept.clone();
    for n in 0..20 {
        let name = format!("gone{n}");
        write!(text, "{}", mapping(&name, &format!("{name}.invalid:80"))).expect("text");
    }
    replace(&routes, &text);
    let ingress = Ingress::start(folder.path(), &[]).await;
    let clusters = async || ingress.config().await["clusters"].as_array().expect("clusters").len();
    assert_eq!(clusters().await, 21);
    replace(&routes, &kept);
    until("the clusters that no table uses are gone", async || clusters().await == 1).await;
}
