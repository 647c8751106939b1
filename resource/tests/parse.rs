//! Text to documents: lines, text that stays text, lists, JSON, and inputs that are meant to hurt.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may stop where it fails")]

use std::{path::PathBuf, sync::Arc};

use proptest::prelude::*;
use resource::{Document, Node, SourceError, parse, parse_each, secret_data};

fn read(text: &str) -> Result<(Vec<Document>, Vec<SourceError>), SourceError> {
    parse(&Arc::new(PathBuf::from("x.yaml")), text, "default")
}

fn one(text: &str) -> Document {
    let (mut documents, errors) = read(text).expect("YAML");
    assert_eq!(errors, []);
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn refused(text: &str) -> (u32, String) {
    let error = read(text).expect_err("refused");
    (error.line, error.message)
}

#[test]
fn every_value_knows_its_line() {
    let document = one(
        "# comment\n\napiVersion: getambassador.io/v2\nkind: Mapping\nmetadata:\n  name: a\nspec:\n  prefix: /a/\n  \
                        headers:\n    x-key: |\n      two\n      lines\n  methods:\n  - GET\n  - {name: POST,\n     x: 1}\n  empty:\n  last: 1.10\n",
    );
    let line = |path: &str| document.root.at(path).map(|node| node.line);
    assert_eq!(line("apiVersion"), Some(3));
    assert_eq!(line("metadata.name"), Some(6));
    assert_eq!(line("spec.prefix"), Some(8));
    assert_eq!(line("spec.headers.x-key"), Some(11), "a block stands where its text begins");
    let methods: Vec<u32> =
        document.root.at("spec.methods").expect("methods").items().iter().map(|node| node.line).collect();
    assert_eq!(methods, [14, 15]);
    assert_eq!(line("spec.empty"), None, "null counts as absent");
    assert_eq!(line("spec.last"), Some(18));
    assert_eq!(document.root.at("spec.headers.x-key").and_then(Node::as_text), Some("two\nlines\n"));
}

#[test]
fn a_tag_makes_text_and_a_leading_mark_is_skipped() {
    let document = one(
        "\u{feff}apiVersion: v1\r\nkind: X\r\nmetadata: {name: a}\r\nv: [!!str 1, !!str true, !!str ~]\r\n",
    );
    let kinds: Vec<_> = document.root.get("v").expect("v").items().iter().map(Node::kind).collect();
    assert_eq!(kinds, ["text", "text", "text"]);
}

#[test]
fn json_is_read_with_lines_tabs_and_escapes() {
    let document = one(
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t},\n\t\"text\": \"\\ud83d\\ude00 \\/ \\u00e9\"\n}\n",
    );
    assert_eq!(document.root.at("metadata.name").expect("name").line, 5);
    assert_eq!(document.root.get("text").and_then(Node::as_text), Some("\u{1f600} / \u{e9}"));
}

#[test]
fn a_dump_of_a_cluster_replays() {
    let (documents, errors) = read(
        "apiVersion: v1\nitems:\n- apiVersion: getambassador.io/v3alpha1\n  kind: Mapping\n  metadata:\n    creationTimestamp: \"2026-01-01T00:00:00Z\"\n    \
         labels: {a: b, n: 1.10}\n    name: m\n    namespace: shop\n    resourceVersion: \"12\"\n  spec: {prefix: /}\n- apiVersion: v1\n  kind: Secret\n  \
         metadata: {name: s}\n  data: {}\nkind: List\nmetadata:\n  resourceVersion: \"\"\n",
    )
    .expect("YAML");
    assert_eq!(errors, []);
    let names: Vec<String> = documents.iter().map(|document| document.object.to_string()).collect();
    assert_eq!(names, ["Mapping shop/m", "Secret default/s"]);
    assert_eq!(documents[0].labels.get("n").map(String::as_str), Some("1.10"));
    assert_eq!(&*documents[0].version, "v3alpha1");
    assert_eq!(&*documents[0].object.kind.group, "getambassador.io");
}

#[test]
fn items_of_a_typed_list_take_its_kind() {
    let (documents, errors) = read(
        "apiVersion: getambassador.io/v2\nkind: MappingList\nitems:\n- metadata: {name: a}\n- metadata: {}\n",
    )
    .expect("YAML");
    assert_eq!(documents[0].object.to_string(), "Mapping default/a");
    assert_eq!(&*documents[0].object.kind.group, "getambassador.io");
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [5]);
}

#[test]
fn a_bad_document_names_its_line_and_leaves_its_neighbours() {
    let good = |name: &str| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    let bad = [
        "---\nkind: Service\nmetadata: {name: x}\n",
        "---\napiVersion: v1\nmetadata: {name: x}\n",
        "---\napiVersion: v1\nkind: Service\n",
        "---\njust text\n",
    ];
    for bad in bad {
        let (documents, errors) = read(&format!("{}{bad}{}", good("a"), good("b"))).expect("YAML");
        let names: Vec<_> = documents.iter().map(|document| &*document.object.name).collect();
        assert_eq!(names, ["a", "b"], "{bad}");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [6], "{bad}");
        assert!(!errors[0].remedy.is_empty());
    }
    let (documents, errors) = read("# nothing\n---\n---\n").expect("YAML");
    assert_eq!((documents.len(), errors.len()), (0, 0));
}

#[test]
fn keys_are_text_and_stand_once() {
    assert_eq!(refused("a: 1\nb:\n  c: 1\n  c: 2\n").0, 4);
    assert_eq!(refused("a: 1\n? [x]\n: 2\n").0, 2);
    let many: String = (0..100).map(|number| format!("k{number}: 1\n")).collect::<Vec<_>>().concat();
    assert!(read(&many).is_ok());
    assert_eq!(refused(&format!("{many}k50: 2\n")), (101, "the key `k50` stands twice".to_owned()));
    assert_eq!(refused("a: {<<: 3}\n").1, "a merge key that is a number, not an object");
}

#[test]
fn an_earlier_merge_wins_over_a_later_one() {
    let document = one(
        "apiVersion: v1\nkind: X\nmetadata: {name: a}\na: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nv: {<<: [*a, *b], x: 0}\n",
    );
    let value = |path: &str| document.root.at(path).and_then(Node::as_int);
    assert_eq!((value("v.x"), value("v.y"), value("v.z")), (Some(0), Some(1), Some(2)));
    assert!(document.root.at("v").is_some_and(|v| v.get("<<").is_none()));
}

#[test]
fn copies_depth_and_text_of_aliases_are_bounded() {
    let links = (1..2_000).map(|level| format!("a{level}: &a{level} [*a{}]\n", level - 1));
    let chain: String = std::iter::once("a0: &a0 [x]\n".to_owned()).chain(links).collect();
    assert!(refused(&chain).1.starts_with("nested deeper"));
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1024 * 1024), "*a,".repeat(20));
    assert!(refused(&text).1.starts_with("aliases copy more"));
    assert!(refused(&format!("{}{}", "[".repeat(100), "]".repeat(100))).1.starts_with("nested deeper"));
}

#[test]
fn secrets_decode_and_never_show() {
    let secret = one(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  a: aGVsbG8=\n  b: |\n    aGVs\n    bG8=\n  c:\nstringData: {a: SECRETTEXT, n: 1.10}\n",
    );
    let data = secret_data(&secret).expect("data");
    let texts: Vec<_> = data
        .iter()
        .map(|(name, bytes)| (name.as_str(), String::from_utf8_lossy(bytes).into_owned()))
        .collect();
    assert_eq!(
        texts,
        [("a", "SECRETTEXT".into()), ("b", "hello".into()), ("c", String::new()), ("n", "1.10".into())]
    );
    assert!(!format!("{secret:?}").contains("SECRET"));
    for (text, message) in [
        ("data: {a: '***SECRET'}", "data.a is not base64"),
        ("data: {a: [SECRET]}", "data.a is a list, not text"),
    ] {
        let secret = one(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{text}\n"));
        assert_eq!(secret_data(&secret), Err((4, message.to_owned())));
    }
}

#[test]
fn ten_thousand_documents_in_one_file() {
    let mapping = |number: u32| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: m{number}\n  namespace: default\n\
             spec:\n  hostname: \"*\"\n  prefix: /p/{number}/\n  service: svc-{number}.shop:8080\n  timeout_ms: 3000\n"
        )
    };
    let text: String = (0..10_000).map(mapping).collect();
    let started = std::time::Instant::now();
    let (documents, errors) = read(&text).expect("YAML");
    println!("{} KiB in {:?}", text.len() / 1024, started.elapsed());
    assert_eq!((documents.len(), errors.len()), (10_000, 0));
    assert_eq!(documents[9_999].root.at("spec.prefix").expect("prefix").line, 9_999 * 11 + 9);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[ -~\u{a1}-\u{1fff}\u{1f600}-\u{1f64f}]{0,12}".prop_map(Into::into),
        prop::sample::select(vec!["yes", "on", "y", "~", "null", "1.10", "- a", "a: b", "#x", "true"])
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[a-z~<# ]{1,6}", inner, 0..6).prop_map(|map| {
                serde_json::Value::Object(map.into_iter().filter(|(key, _)| key != "<<").collect())
            }),
        ]
    })
}

fn same(node: &Node, json: &serde_json::Value) -> bool {
    use resource::Value;
    match (&node.value, json) {
        (Value::Null, serde_json::Value::Null) => true,
        (Value::Bool(a), serde_json::Value::Bool(b)) => a == b,
        (Value::Number(a), serde_json::Value::Number(b)) => **a == b.to_string(),
        (Value::Text(a), serde_json::Value::String(b)) => **a == **b,
        (Value::List(a), serde_json::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Map(a), serde_json::Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(&**name).is_some_and(|b| same(a, b)))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_means_what_it_says(value in json()) {
        let whole = serde_json::json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "value": value});
        for text in [whole.to_string(), format!("{whole:#}")] {
            let (documents, errors) = read(&text).expect("JSON is YAML");
            prop_assert_eq!(errors, vec![]);
            let found = documents[0].root.fields().iter().find(|(name, _)| &**name == "value").map(|(_, node)| node);
            prop_assert!(found.is_some_and(|found| same(found, &value)), "{}", text);
        }
    }

    #[test]
    fn nothing_panics(text in "[-a-c:,#&*!<>|'\"\\[\\]{}\n\t ?%.]{0,200}") {
        if let Ok((documents, errors)) = read(&text) {
            let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX) + 1;
            prop_assert!(errors.iter().all(|error| error.line >= 1 && error.line <= lines));
            prop_assert!(documents.len() <= text.len());
        }
    }
}

/// What can be read of a text that is no YAML: names with their lines, and the lines of what is wrong.
fn each(text: &str) -> (Vec<String>, Vec<u32>) {
    assert!(read(text).is_err(), "{text}");
    let (documents, errors) = parse_each(&Arc::new(PathBuf::from("x.yaml")), text, "default");
    let name = |document: &Document| {
        let line = document.root.at("metadata.name").map_or(0, |node| node.line);
        format!("{} {line}", document.object.name)
    };
    (documents.iter().map(name).collect(), errors.iter().map(|error| error.line).collect())
}

#[test]
fn a_broken_document_leaves_its_neighbours_in_the_file_alone() {
    let good = |name: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    let twice = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nkind: Service\n";
    let (a, b) = (good("a"), good("b"));
    let table = [
        (format!("{a}---\n{twice}---\n{b}"), &["a 3", "b 12"][..], &[8][..]),
        (format!("---\n{twice}---\n{a}"), &["a 9"], &[5]),
        (format!("{a}---\nkind: [\n---\n{b}"), &["a 3", "b 9"], &[5]),
        // A marker ends a document in a block scalar, a quote and a flow collection.
        (format!("text: |\n  one\n---\n{a}---\ntext: \"one\n---\n{b}"), &["a 6", "b 12"], &[1, 8]),
        // Indented, or followed by more, it is text.
        (format!("{twice}text: |\n  ---\n  {}---\n{a}", "...\n"), &["a 11"], &[4]),
        (format!("{twice}---x: y\n---\n{a}"), &["a 9"], &[4]),
        (format!("%YAML 1.2\n--- # first\n{a}...\n# rest\n---\n{twice}"), &["a 5"], &[12]),
        (format!("{}---\r\n{}", a.replace('\n', "\r\n"), twice.replace('\n', "\r\n")), &["a 3"], &[8]),
        // Anchors end with their document.
        (format!("{a}x: &x 1\n---\n{b}x: *x\n"), &["a 3"], &[9]),
        (twice.to_owned(), &[], &[4]),
    ];
    for (text, names, lines) in table {
        let (found, wrong) = each(&text);
        assert_eq!(found, names, "{text}");
        assert_eq!(wrong, lines, "{text}");
    }
}

/// The limits hold for a file, not for each of its documents.
#[test]
fn many_bombs_are_one_bomb() {
    let bomb = format!(
        "apiVersion: v1\nkind: X\nmetadata: {{name: a}}\na: &a [{}]\nb: [{}]\n",
        "x,".repeat(1000),
        "*a,".repeat(100)
    );
    let (documents, errors) = {
        let text = format!("kind: [\n---\n{}", format!("{bomb}---\n").repeat(10));
        parse_each(&Arc::new(PathBuf::from("x.yaml")), &text, "default")
    };
    assert_eq!((documents.len(), errors.len()), (2, 9));
}
