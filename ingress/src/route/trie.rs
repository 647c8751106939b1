//! A byte-radix trie over literal prefixes: every prefix of a path, in one walk, at the same cost for ten and ten thousand.

/// A node: the bytes that lead to it, and what ends there.
#[derive(Debug, Default)]
struct Node {
    edge: Box<[u8]>,
    /// First byte and index of each child, sorted.
    children: Vec<(u8, u32)>,
    /// Ranks of the routes whose prefix ends here, ascending.
    ranks: Vec<u32>,
}

/// Literal prefixes and the ranks of their routes.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Trie {
    /// Adds a route. Ranks are added in ascending order.
    pub(super) fn insert(&mut self, prefix: &[u8], rank: u32) {
        let mut at = 0;
        let mut rest = prefix;
        loop {
            let Some(first) = rest.first().copied() else {
                self.push_rank(at, rank);
                return;
            };
            let Some(child) = self.child(at, first) else {
                let leaf = self.add(Node { edge: rest.into(), children: Vec::new(), ranks: vec![rank] });
                self.link(at, first, leaf);
                return;
            };
            let edge = self.nodes.get(child).map(|node| node.edge.clone()).unwrap_or_default();
            let common = edge.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < edge.len() {
                self.split(child, common);
            }
            rest = rest.get(common..).unwrap_or_default();
            at = child;
        }
    }

    /// Passes the ranks of all routes whose prefix starts the path to `found`.
    pub(super) fn walk(&self, path: &[u8], mut found: impl FnMut(&[u32])) {
        let mut at = 0;
        let mut rest = path;
        loop {
            let Some(node) = self.nodes.get(at) else { return };
            found(&node.ranks);
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

    fn add(&mut self, node: Node) -> u32 {
        let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(node);
        index
    }

    fn link(&mut self, at: usize, first: u8, child: u32) {
        if let Some(node) = self.nodes.get_mut(at) {
            let place = node.children.partition_point(|(byte, _)| *byte < first);
            node.children.insert(place, (first, child));
        }
    }

    fn push_rank(&mut self, at: usize, rank: u32) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.ranks.push(rank);
        }
    }

    /// Cuts a node's edge in two: the node keeps the head, a new child takes the tail and what hung below.
    fn split(&mut self, at: usize, common: usize) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let (head, tail) = node.edge.split_at(common);
        let (head, tail): (Box<[u8]>, Box<[u8]>) = (head.into(), tail.into());
        let first = tail.first().copied().unwrap_or_default();
        let below = Node {
            edge: tail,
            children: std::mem::take(&mut node.children),
            ranks: std::mem::take(&mut node.ranks),
        };
        node.edge = head;
        let child = self.add(below);
        self.link(at, first, child);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_walk_finds_what_a_scan_finds(prefixes in prop::collection::vec("/[ab/]{0,6}", 0..40), path in "/[ab/]{0,8}") {
            let mut trie = Trie::default();
            for (rank, prefix) in (0..).zip(&prefixes) {
                trie.insert(prefix.as_bytes(), rank);
            }
            let mut found = Vec::new();
            trie.walk(path.as_bytes(), |ranks| found.extend_from_slice(ranks));
            found.sort_unstable();
            let scanned: Vec<u32> = (0..).zip(&prefixes).filter(|(_, prefix)| path.starts_with(prefix.as_str())).map(|(rank, _)| rank).collect();
            prop_assert_eq!(found, scanned);
        }
    }
}
