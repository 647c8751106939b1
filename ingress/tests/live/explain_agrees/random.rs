//! Mappings and requests by the dice, from words that are few enough to meet often.

use fastrand::Rng;

pub(super) const SERVICES: [&str; 5] = ["svc-0", "svc-1", "svc-2", "svc-3", "svc-4"];

/// One Host of each insecure action, one that is broken, and a wildcard beside them.
pub(super) const HOSTS: &str = "
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: shop}
spec: {hostname: \"*.shop.example\", requestPolicy: {insecure: {action: Route}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: secure}
spec: {hostname: secure.shop.example, requestPolicy: {insecure: {action: Redirect}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: closed}
spec: {hostname: closed.example, requestPolicy: {insecure: {action: Reject}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: broken}
spec: {hostname: broken.example, tlsSecret: {name: nowhere}, requestPolicy: {insecure: {action: Route}}}
";

const WORDS: [&str; 6] = ["a", "b", "ab", "A", "shop", "v1"];
const HOSTNAMES: [&str; 10] = [
    "*",
    "*",
    "*",
    "*",
    "a.shop.example",
    "b.shop.example",
    "*.shop.example",
    "a.*",
    "closed.example",
    "broken.example",
];
const PATTERNS: [&str; 5] = ["/a/.*", "/[ab]+/v1", "/shop/[0-9]+", "/(a|b)(/.*)?", "/.*b"];
const BROKEN: [&str; 6] = [
    "tls: nobody",
    "regex_headers: {x-a: \"(\"}",
    "timeout_ms: soon",
    "redirect_response_code: 299, host_redirect: true",
    "rewrite: nowhere",
    "weight: 200",
];

/// What decides a Mapping's place: canaries share it.
#[derive(Clone)]
struct Conditions(Vec<String>);

pub(super) struct Random(Rng);

/// A request as a client sends it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: &'static str,
    pub(super) host: &'static str,
    /// Path and query; the query has the request's number, so that its line is found.
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, &'static str)>,
}

impl Asked {
    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.host, self.target)
    }
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// True so many times of a hundred.
    fn chance(&mut self, percent: u8) -> bool {
        self.0.u8(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())]
    }

    pub(super) fn mappings(&mut self, count: usize) -> Vec<String> {
        let mut last = None;
        (0..count)
            .map(|number| {
                let canary = self.chance(30);
                let conditions = last.take().filter(|_| canary).unwrap_or_else(|| self.conditions());
                last = Some(Conditions::clone(&conditions));
                self.mapping(number, conditions)
            })
            .collect()
    }

    fn mapping(&mut self, number: usize, Conditions(mut fields): Conditions) -> String {
        if self.chance(40) {
            fields.push(format!("weight: {}", self.0.u8(..=100)));
        }
        if self.chance(30) {
            fields.push(format!("rewrite: \"{}\"", self.one(&["", "/r/", "/"])));
        }
        if self.chance(10) {
            fields.push("add_request_headers: {x-added: {value: \"1\"}}".to_owned());
        }
        if self.chance(10) {
            fields.push(format!(
                "host_redirect: true, {}",
                self.one(&["path_redirect: /new", "redirect_response_code: 302"])
            ));
        }
        let service = if self.chance(3) { "ftp://nowhere" } else { self.one(&SERVICES) };
        fields.push(format!("service: \"{service}\""));
        if self.chance(8) {
            let broken = self.one(&BROKEN);
            // A field stands once: what is broken takes the place of what is not.
            let name = broken.split(':').next().unwrap_or_default();
            fields.retain(|given| !given.starts_with(name) && !given.starts_with("host_redirect"));
            fields.push(broken.to_owned());
        }
        format!(
            "apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: m-{number}}}\nspec: {{{}}}\n",
            fields.join(", ")
        )
    }

    fn conditions(&mut self) -> Conditions {
        let mut fields = vec![self.path_condition(), self.host_condition()];
        match self.0.u8(..10) {
            0 | 1 => fields.push(format!("method: {}", self.one(&["GET", "POST", "PUT"]))),
            2 => fields.push("method: \"P.*\", method_regex: true".to_owned()),
            _ => {}
        }
        match self.0.u8(..10) {
            0 => fields.push(format!("headers: {{x-a: \"{}\"}}", self.one(&["1", "2"]))),
            1 => fields.push("headers: {x-b: true}".to_owned()),
            2 => fields.push("regex_headers: {x-a: \"[12]\"}".to_owned()),
            _ => {}
        }
        match self.0.u8(..10) {
            0 => fields.push("query_parameters: {q: \"1\"}".to_owned()),
            1 => fields.push("regex_query_parameters: {q: \"[0-9]+\"}".to_owned()),
            _ => {}
        }
        if self.chance(15) {
            fields.push(format!("precedence: {}", self.0.i8(-1..=2)));
        }
        Conditions(fields)
    }

    fn path_condition(&mut self) -> String {
        match self.0.u8(..20) {
            0..=2 => format!("prefix: \"{}\", prefix_regex: true", self.one(&PATTERNS)),
            3 => "prefix: \"/a/(\", prefix_regex: true".to_owned(),
            4 | 5 => format!("prefix: {}, prefix_exact: true", self.path(2)),
            6 | 7 => format!("prefix: {}, case_sensitive: false", self.path(2)),
            8 => "prefix: /".to_owned(),
            _ => format!("prefix: {}", self.path(2)),
        }
    }

    fn host_condition(&mut self) -> String {
        if self.chance(5) {
            return "host: \"[ab][.]shop[.]example\", host_regex: true".to_owned();
        }
        format!("hostname: \"{}\"", self.one(&HOSTNAMES))
    }

    fn path(&mut self, most: usize) -> String {
        let mut path = String::new();
        for _ in 0..=self.0.usize(..most) {
            path += "/";
            path += self.one(&WORDS);
        }
        if self.chance(50) { path + "/" } else { path }
    }

    pub(super) fn request(&mut self, number: usize) -> Asked {
        let mut path = self.path(4);
        if self.chance(15) {
            path += self.one(&["../a", "//b", "./v1", "%41", "%2e%2e/b", "%zz", "%2fa", "7", "%00"]);
        }
        let query = self.one(&["", "", "&q=1", "&q=x", "&q=2&q=1"]);
        let mut headers = Vec::new();
        if self.chance(50) {
            headers.push(("x-a", self.one(&["1", "2", "3"])));
        }
        if self.chance(30) {
            headers.push(("x-b", ""));
        }
        if self.chance(10) {
            headers.push(("x-a", "2"));
        }
        if self.chance(10) {
            headers.push(("x-forwarded-proto", "https"));
        }
        let hosts = [
            "a.shop.example",
            "a.shop.example",
            "a.shop.example",
            "b.shop.example",
            "b.shop.example",
            "A.Shop.Example",
            "a.shop.example:8080",
            "secure.shop.example",
            "closed.example",
            "broken.example",
            "elsewhere.test",
            "127.0.0.1",
        ];
        Asked {
            method: self.one(&["GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE"]),
            host: self.one(&hosts),
            target: format!("{path}?n={number}{query}"),
            headers,
        }
    }
}
