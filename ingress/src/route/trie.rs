//! A byte-radix trie over literal texts: every text that starts another one, in one walk, at the same cost for ten and ten
//! thousand.

/// Texts, each with a value.
#[derive(Debug)]
pub(super) struct Trie<T> {
    /// The root first; empty while there is no text.
    nodes: Vec<Node<T>>,
}

/// A node: the bytes that lead to it, and what ends there.
#[derive(Debug)]
struct Node<T> {
    edge: Box<[u8]>,
    /// First byte and index of each child, sorted.
    children: Vec<(u8, u32)>,
    value: Option<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<T> Trie<T> {
    /// Whether it has no text.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Gives a text its value; gives back the value that it had.
    pub(super) fn insert(&mut self, text: &[u8], value: T) -> Option<T> {
        if self.nodes.is_empty() {
            self.add(&[], None);
        }
        let mut at = 0;
        let mut rest = text;
        loop {
            let Some(first) = rest.first().copied() else {
                return self.nodes.get_mut(at).and_then(|node| node.value.replace(value));
            };
            let Some(child) = self.child(at, first) else {
                let leaf = self.add(rest, Some(value));
                self.link(at, first, leaf);
                return None;
            };
            let edge = self.nodes.get(child).map(|node| &*node.edge).unwrap_or_default();
            let common = edge.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < edge.len() {
                self.split(child, common);
            }
            rest = rest.get(common..).unwrap_or_default();
            at = child;
        }
    }

    /// Passes the value of every text that starts `whole` to `found`, shortest first.
    pub(super) fn walk(&self, whole: &[u8], mut found: impl FnMut(&T)) {
        let mut at = 0;
        let mut rest = whole;
        while let Some(node) = self.nodes.get(at) {
            if let Some(value) = &node.value {
                found(value);
            }
            let Some(first) = rest.first() else { return };
            let Some(child) = self.child(at, *first) else { return };
            let Some(tail) = self.nodes.get(child).and_then(|node| rest.strip_prefix(&*node.edge)) else {
                return;
            };
            rest = tail;
            at = child;
        }
    }

    fn child(&self, at: usize, first: u8) -> Option<usize> {
        let children = &self.nodes.get(at)?.children;
        let found = children.binary_search_by_key(&first, |(byte, _)| *byte).ok()?;
        children.get(found).map(|(_, index)| *index as usize)
    }

    fn add(&mut self, edge: &[u8], value: Option<T>) -> u32 {
        let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node { edge: edge.into(), children: Vec::new(), value });
        index
    }

    fn link(&mut self, at: usize, first: u8, child: u32) {
        if let Some(node) = self.nodes.get_mut(at) {
            let place = node.children.partition_point(|(byte, _)| *byte < first);
            node.children.insert(place, (first, child));
        }
    }

    /// Cuts a node's edge in two: the node keeps the head, a new child takes the tail and what hung below.
    fn split(&mut self, at: usize, common: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let (head, tail) = node.edge.split_at(common);
        let (head, tail): (Box<[u8]>, Box<[u8]>) = (head.into(), tail.into());
        let (children, value) = (std::mem::take(&mut node.children), node.value.take());
        node.edge = head;
        let below = self.add(&tail, value);
        if let Some(below) = self.nodes.get_mut(below as usize) {
            below.children = children;
        }
        self.link(at, tail.first().copied().unwrap_or_default(), below);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_walk_finds_what_a_scan_finds(
            texts in prop::collection::btree_set("/?[ab/]{0,6}", 0..40),
            whole in "/?[ab/]{0,8}",
        ) {
            let mut trie = Trie::default();
            for text in &texts {
                prop_assert_eq!(trie.insert(text.as_bytes(), text.clone()), None);
            }
            prop_assert_eq!(trie.is_empty(), texts.is_empty());
            let mut found = Vec::new();
            trie.walk(whole.as_bytes(), |text| found.push(text.clone()));
            prop_assert!(found.is_sorted_by_key(String::len));
            let scanned: BTreeSet<_> = texts.into_iter().filter(|text| whole.starts_with(text.as_str())).collect();
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), scanned);
        }
    }

    #[test]
    fn a_text_has_one_value() {
        let mut trie = Trie::default();
        assert_eq!(trie.insert(b"ab", 1), None);
        assert_eq!(trie.insert(b"a", 2), None);
        assert_eq!(trie.insert(b"ab", 3), Some(1));
    }
}
