//! Weights of a group (emissary.md 3.3): the part of the dice that each member takes.

use std::ops::Range;

/// Ranges of the dice for the members of a group, in load order. A group may leave a share, which falls through.
pub(super) fn shares(weights: &[Option<i64>]) -> Vec<Range<u8>> {
    if let [_only] = weights {
        return std::iter::once(0..100).collect();
    }
    let given: i64 = weights.iter().flatten().sum();
    if weights.iter().flatten().any(|weight| *weight > 100) {
        return vec![0..0; weights.len()];
    }
    let open = i64::try_from(weights.iter().filter(|weight| weight.is_none()).count()).unwrap_or(i64::MAX);
    let rest = (100 - given).max(0);
    let mut left = open;
    let mut start: i64 = 0;
    let mut ranges = Vec::with_capacity(weights.len());
    for weight in weights {
        let share = weight.unwrap_or_else(|| {
            // The last one takes what the division leaves: 33 / 33 / 34.
            let share = if left == 1 { rest - (rest / open.max(1)) * (open - 1) } else { rest / open.max(1) };
            left -= 1;
            share
        });
        let end = (start + share).min(100);
        ranges.push(byte(start)..byte(end));
        start = end;
    }
    ranges
}

/// As [`shares`], for connections, which have no other route to fall through to: weights that make less than 100 are parts of
/// what they make.
pub(super) fn tcp_shares(weights: &[Option<i64>]) -> Vec<Range<u8>> {
    let sum: i64 = weights.iter().flatten().sum();
    let all_given = weights.iter().all(Option::is_some);
    if weights.len() < 2 || !all_given || !(1..100).contains(&sum) {
        return shares(weights);
    }
    let mut before = 0;
    let scaled = weights.iter().flatten().map(|weight| {
        let start = before;
        before += weight;
        byte(start * 100 / sum)..byte(before * 100 / sum)
    });
    scaled.collect()
}

fn byte(value: i64) -> u8 {
    u8::try_from(value.clamp(0, 100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let sizes = |weights: &[Option<i64>]| {
            shares(weights).iter().map(|range| range.end - range.start).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[Some(7)]), [100]);
        assert_eq!(sizes(&[Some(10), None]), [10, 90]);
        assert_eq!(sizes(&[None, None, None]), [33, 33, 34]);
        assert_eq!(sizes(&[Some(100), None]), [100, 0]);
        assert_eq!(sizes(&[Some(0), None]), [0, 100]);
        assert_eq!(sizes(&[Some(30), Some(20)]), [30, 20]);
        assert_eq!(sizes(&[Some(60), Some(70)]), [60, 40]);
        assert_eq!(sizes(&[Some(101), Some(1)]), [0, 0]);
    }

    #[test]
    fn connections_fall_through_to_nothing() {
        let sizes = |weights: &[Option<i64>]| {
            tcp_shares(weights).iter().map(|range| range.end - range.start).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[Some(70), Some(30)]), [70, 30]);
        assert_eq!(sizes(&[Some(30), Some(20)]), [60, 40]);
        assert_eq!(sizes(&[Some(1), Some(1), Some(1)]), [33, 33, 34]);
        assert_eq!(sizes(&[Some(0), Some(5)]), [0, 100]);
        assert_eq!(sizes(&[Some(20), None]), [20, 80]);
        assert_eq!(sizes(&[Some(60), Some(70)]), [60, 40]);
        assert_eq!(sizes(&[Some(0), Some(0)]), [0, 0]);
        assert_eq!(sizes(&[Some(3)]), [100]);
    }

    #[test]
    fn shares_do_not_overlap() {
        let ranges = shares(&[Some(30), None, Some(20), None]);
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert_eq!(ranges.last().map(|range| range.end), Some(100));
    }
}
