//! Conditions on one text (a hostname, a path), indexed so that a lookup touches few of them, however many there are.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use foldhash::fast::RandomState;
use regex_syntax::hir::{Hir, HirKind};
use smallvec::SmallVec;

use super::trie::Trie;

/// A condition that a text has to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition<'a> {
    Any,
    Exact(&'a str),
    Prefix(&'a str),
    /// Whatever the case of ASCII letters; the text is in lower case.
    FoldedPrefix(&'a str),
    Suffix(&'a str),
    /// A regular expression.
    Pattern(&'a str),
}

/// Conditions, each with what hangs on it. A pattern is filed under a text that each of its matches contains: patterns that
/// have no such text, or share it, are found together.
#[derive(Debug)]
pub(super) struct TextIndex<T> {
    any: Option<T>,
    exact: HashMap<Box<str>, T, RandomState>,
    prefix: Trie<T>,
    folded: Trie<T>,
    /// Its texts are reversed.
    suffix: Trie<T>,
    contained: Option<Box<Contained<T>>>,
}

#[derive(Debug)]
struct Contained<T> {
    search: AhoCorasick,
    /// By the number of the text in `search`.
    values: Vec<T>,
}

impl<T> TextIndex<T> {
    /// Files ranks under their conditions; `make` makes what hangs on a condition from its ranks, in their order.
    pub(super) fn new<'a>(
        ranks: &[u32],
        condition: impl Fn(u32) -> Condition<'a>,
        make: impl Fn(&[u32]) -> T,
    ) -> Self {
        let mut places: HashMap<Condition<'a>, Vec<u32>, RandomState> = HashMap::default();
        for rank in ranks {
            places.entry(condition(*rank)).or_default().push(*rank);
        }
        let mut any = places.remove(&Condition::Any).unwrap_or_default();
        let patterns = places.iter().filter_map(|(condition, ranks)| match condition {
            Condition::Pattern(pattern) => Some((*pattern, ranks.as_slice())),
            _ => None,
        });
        let (texts, unplaced) = by_rarest_text(patterns);
        let contained = Contained::new(texts, &make).unwrap_or_else(|ranks| {
            any.extend(ranks);
            None
        });
        any.extend(unplaced);
        any.sort_unstable();
        let mut index = Self {
            any: (!any.is_empty()).then(|| make(&any)),
            exact: HashMap::default(),
            prefix: Trie::default(),
            folded: Trie::default(),
            suffix: Trie::default(),
            contained,
        };
        for (condition, ranks) in &places {
            index.file(*condition, || make(ranks));
        }
        index
    }

    fn file(&mut self, condition: Condition<'_>, value: impl FnOnce() -> T) {
        match condition {
            // Filed before.
            Condition::Any | Condition::Pattern(_) => {}
            Condition::Exact(text) => {
                self.exact.insert(text.into(), value());
            }
            Condition::Prefix(text) => {
                self.prefix.insert(text.as_bytes(), value());
            }
            Condition::FoldedPrefix(text) => {
                self.folded.insert(text.as_bytes(), value());
            }
            Condition::Suffix(text) => {
                self.suffix.insert(&reversed(text), value());
            }
        }
    }

    /// Passes to `found` what hangs on each condition that the text meets, and on few others.
    pub(super) fn visit(&self, text: &str, mut found: impl FnMut(&T)) {
        if let Some(any) = &self.any {
            found(any);
        }
        if let Some(exact) = self.exact.get(text) {
            found(exact);
        }
        self.prefix.walk(text.as_bytes(), &mut found);
        if !self.folded.is_empty() {
            let lower: Bytes = text.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
            self.folded.walk(&lower, &mut found);
        }
        if !self.suffix.is_empty() {
            self.suffix.walk(&reversed(text), &mut found);
        }
        if let Some(contained) = &self.contained {
            contained.visit(text, found);
        }
    }
}

impl<T> Contained<T> {
    /// Gives the ranks back if there are more texts than one search can hold.
    fn new(
        texts: HashMap<String, Vec<u32>>,
        make: &impl Fn(&[u32]) -> T,
    ) -> Result<Option<Box<Self>>, Vec<u32>> {
        if texts.is_empty() {
            return Ok(None);
        }
        // One kind for few and many, and never the large one: a full automaton of 10,000 texts takes tens of megabytes.
        let built = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(texts.keys());
        match built {
            Ok(search) => {
                Ok(Some(Box::new(Self { search, values: texts.values().map(|ranks| make(ranks)).collect() })))
            }
            Err(_too_large) => Err(texts.into_values().flatten().collect()),
        }
    }

    fn visit(&self, text: &str, mut found: impl FnMut(&T)) {
        // A text that stands in the path a thousand times still counts once.
        let mut numbers: SmallVec<[u32; 16]> =
            self.search.find_overlapping_iter(text).map(|found| found.pattern().as_u32()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().filter_map(|number| self.values.get(*number as usize)).for_each(&mut found);
    }
}

/// Ranks of patterns by the text that fewest other patterns share, and the ranks of those that have none.
fn by_rarest_text<'a>(
    patterns: impl Iterator<Item = (&'a str, &'a [u32])>,
) -> (HashMap<String, Vec<u32>>, Vec<u32>) {
    let patterns: Vec<_> = patterns.map(|(pattern, ranks)| (required_texts(pattern), ranks)).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for text in patterns.iter().flat_map(|(texts, _)| texts) {
        *uses.entry(text).or_default() += 1;
    }
    let (mut placed, mut unplaced) = (HashMap::<String, Vec<u32>>::new(), Vec::new());
    for (texts, ranks) in &patterns {
        let rarity = |text: &&String| (std::cmp::Reverse(uses.get(text.as_str()).copied()), text.len());
        match texts.iter().max_by_key(rarity) {
            Some(text) => placed.entry(text.clone()).or_default().extend_from_slice(ranks),
            None => unplaced.extend_from_slice(ranks),
        }
    }
    for ranks in placed.values_mut() {
        ranks.sort_unstable();
    }
    (placed, unplaced)
}

/// Texts that stand in everything that a pattern matches.
fn required_texts(pattern: &str) -> Vec<String> {
    let mut texts = Vec::new();
    // Compile has built it; should it not parse here, it is found by every lookup.
    if let Ok(hir) = regex_syntax::parse(pattern) {
        gather(&hir, &mut texts);
    }
    texts
}

fn gather(hir: &Hir, texts: &mut Vec<String>) {
    match hir.kind() {
        HirKind::Literal(literal) => texts.extend(std::str::from_utf8(&literal.0).map(str::to_owned)),
        HirKind::Capture(capture) => gather(&capture.sub, texts),
        HirKind::Repetition(repetition) if repetition.min > 0 => gather(&repetition.sub, texts),
        HirKind::Concat(parts) => parts.iter().for_each(|part| gather(part, texts)),
        // One of several, or none: nothing that each match has.
        HirKind::Alternation(_)
        | HirKind::Repetition(_)
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Empty => {}
    }
}

/// Names and paths are mostly short: no allocation for these.
type Bytes = SmallVec<[u8; 128]>;

pub(super) fn reversed(text: &str) -> Bytes {
    text.bytes().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_required_only_if_every_match_has_it() {
        for (pattern, texts) in [
            ("/a/b", &["/a/b"][..]),
            ("/a/.*", &["/a/"]),
            ("/ab?", &["/a"]),
            ("/ab*c", &["/a", "c"]),
            ("/ab{0,2}", &["/a"]),
            ("/(?:ab)+", &["/", "ab"]),
            ("/a(b)", &["/a", "b"]),
            ("/a|/b", &[]),
            ("a|b", &[]),
            ("(?i)/a", &["/"]),
            ("/\\d", &["/"]),
            ("^/a$", &["/a"]),
            ("/ä?", &["/"]),
            ("(?x) / a # not this", &["/a"]),
            ("", &[]),
            ("(", &[]),
        ] {
            assert_eq!(required_texts(pattern), texts, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_is_filed_under_its_rarest_text() {
        let patterns = ["/api/.*/x1", "/api/.*/x2", "/api/.*/x2", "[a-z]+"];
        let ranks: Vec<u32> = (0..4).collect();
        let index = TextIndex::new(
            &ranks,
            |rank| Condition::Pattern(patterns.get(rank as usize).copied().unwrap_or_default()),
            <[u32]>::to_vec,
        );
        let visited = |text: &str| {
            let mut all = Vec::new();
            index.visit(text, |ranks| all.extend_from_slice(ranks));
            all.sort_unstable();
            all
        };
        assert_eq!(visited("/api/a/x1"), [0, 3]);
        assert_eq!(visited("/x2/x2/x2"), [1, 2, 3]);
        assert_eq!(visited("/api/"), [3]);
    }

    #[test]
    fn every_kind_of_condition_is_found() {
        let conditions = [
            Condition::Any,
            Condition::Exact("ab.cd"),
            Condition::Prefix("ab"),
            Condition::Suffix("cd"),
            Condition::FoldedPrefix("ab."),
            Condition::Pattern("b.c"),
        ];
        let ranks: Vec<u32> = (0..6).collect();
        let condition = |rank: u32| conditions.get(rank as usize).copied().unwrap_or(Condition::Any);
        let index = TextIndex::new(&ranks, condition, <[u32]>::to_vec);
        for (text, expected) in [
            ("ab.cd", &[0, 1, 2, 3, 4, 5][..]),
            ("AB.CD", &[0, 4]),
            ("abXcd", &[0, 2, 3, 5]),
            ("cd", &[0, 3]),
            ("", &[0]),
        ] {
            let mut all = Vec::new();
            index.visit(text, |ranks| all.extend_from_slice(ranks));
            all.sort_unstable();
            // A pattern may be found in vain.
            let needed: Vec<u32> =
                all.iter().copied().filter(|rank| *rank != 5 || expected.contains(rank)).collect();
            assert_eq!(needed, expected, "{text}");
        }
    }
}
