use proptest::prelude::*;

use super::super::board::Pick;
use super::super::columns::{self, Item};
use super::super::exact::{self, Outcome};
use super::super::{ArenaError, ArenaPlan, Buffer, check};
use super::{checked_plan, limits};

const PICKS: [Pick; 3] = [Pick::FewestMoves, Pick::LowestFloor, Pick::LeastSlack];

fn buffers(n: std::ops::Range<usize>, steps: usize, bytes: u64) -> impl Strategy<Value = Vec<Buffer>> {
    let buffer =
        (0..=bytes, 0..steps, 0..steps).prop_map(|(bytes, a, b)| Buffer { bytes, first: a.min(b), last: a.max(b) });
    prop::collection::vec(buffer, n)
}

/// The load of every step, added up one step at a time.
fn loads(buffers: &[Buffer], alignment: u64) -> Vec<u64> {
    let n_steps = buffers.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let is_live = |step| move |b: &&Buffer| b.first <= step && step <= b.last;
    let load = |step| buffers.iter().filter(is_live(step)).map(|b| b.bytes.next_multiple_of(alignment)).sum();
    (0..n_steps).map(load).collect()
}

fn meet(a: &Buffer, b: &Buffer) -> bool {
    a.bytes > 0 && b.bytes > 0 && a.first <= b.last && b.first <= a.last
}

/// The height of the lowest packing: in the order of its offsets, every item
/// of some lowest packing is on one of those before it.
fn least_height(buffers: &[Buffer]) -> u64 {
    fn extend(buffers: &[Buffer], placed: &mut Vec<(usize, u64)>, height: u64, best: &mut u64) {
        if height >= *best {
            return;
        }
        if placed.len() == buffers.len() {
            *best = height;
            return;
        }
        for (i, buffer) in buffers.iter().enumerate() {
            if placed.iter().any(|&(j, _)| j == i) {
                continue;
            }
            let below = placed.iter().filter(|&&(j, _)| meet(buffer, &buffers[j]));
            let at = below.map(|&(j, at)| at + buffers[j].bytes).max().unwrap_or(0);
            placed.push((i, at));
            extend(buffers, placed, height.max(at + buffer.bytes), best);
            placed.pop();
        }
    }
    let mut best = u64::MAX;
    extend(buffers, &mut Vec::new(), 0, &mut best);
    best
}

/// Runs the exact search alone on every part, with no greedy packing to help.
fn fits(buffers: &[Buffer], capacity: u64, pick: Pick, reversed: bool) -> bool {
    let sweep = columns::sweep(buffers, 1).expect("the buffers are valid");
    sweep.parts.iter().all(|part| {
        let mut items: Vec<Item> = part.items.clone();
        if reversed {
            items.reverse();
        }
        let units = capacity / sweep.unit;
        match exact::search(&items, &part.loads, units, pick, u64::MAX, &mut 0) {
            Outcome::Packed(offsets) => {
                for (i, (a, x)) in items.iter().zip(&offsets).enumerate() {
                    assert!(x + a.size <= units);
                    for (b, y) in items[..i].iter().zip(&offsets) {
                        let apart = x + a.size <= *y || y + b.size <= *x;
                        assert!(apart || a.hi <= b.lo || b.hi <= a.lo);
                    }
                }
                true
            }
            Outcome::Infeasible => false,
            Outcome::GaveUp => panic!("the nodes are unlimited"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn plans_never_overlap(
        buffers in buffers(0..80, 40, 5000),
        shift in 0..10_u32,
        max_nodes in 0..2000_u64,
    ) {
        let alignment = 1 << shift;
        let plan = checked_plan(&buffers, alignment, max_nodes);
        let loads = loads(&buffers, alignment);
        prop_assert_eq!(plan.max_live, loads.iter().copied().max().unwrap_or(0));
        let step = loads.iter().position(|&load| load == plan.max_live).unwrap_or(0);
        prop_assert_eq!(plan.max_live_step, step);
    }

    #[test]
    fn plans_of_few_buffers_are_the_smallest(buffers in buffers(1..8, 8, 9)) {
        let plan = checked_plan(&buffers, 1, 1_000_000);
        prop_assert_eq!(plan.bytes, least_height(&buffers));
    }

    #[test]
    fn the_search_is_sound_and_complete(
        buffers in buffers(1..8, 6, 6),
        pick in prop::sample::select(&PICKS[..]),
        reversed: bool,
    ) {
        let least = least_height(&buffers);
        let lowest = columns::sweep(&buffers, 1).expect("the buffers are valid");
        for capacity in lowest.bound * lowest.unit..least {
            prop_assert!(!fits(&buffers, capacity, pick, reversed));
        }
        for capacity in [least, least + 1, least + 5] {
            prop_assert!(fits(&buffers, capacity, pick, reversed));
        }
    }

    #[test]
    fn check_agrees_with_comparing_all_pairs(
        buffers in buffers(1..12, 8, 9),
        offsets in prop::collection::vec(0..40_u64, 12),
    ) {
        let offsets = offsets[..buffers.len()].to_vec();
        let overlaps = |i: usize, j: usize| {
            let apart = offsets[i] + buffers[i].bytes <= offsets[j]
                || offsets[j] + buffers[j].bytes <= offsets[i];
            meet(&buffers[i], &buffers[j]) && !apart
        };
        let n = buffers.len();
        let any = (0..n).any(|i| (0..i).any(|j| overlaps(i, j)));
        let plan = ArenaPlan {
            offsets: offsets.clone(),
            bytes: 100,
            alignment: 1,
            max_live: 0,
            max_live_step: 0,
            n_nodes: 0,
        };
        match check(&buffers, &plan) {
            Ok(()) => prop_assert!(!any),
            Err(ArenaError::Overlap { a, b, step }) => {
                prop_assert!(overlaps(a, b));
                for i in [a, b] {
                    prop_assert!(buffers[i].first <= step && step <= buffers[i].last);
                }
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn no_input_panics(
        sizes in prop::collection::vec((any::<u64>(), any::<usize>(), any::<usize>()), 0..6),
        alignment: u64,
    ) {
        let buffer = |&(bytes, first, last): &(u64, usize, usize)| Buffer { bytes, first, last };
        let buffers: Vec<_> = sizes.iter().map(buffer).collect();
        for alignment in [alignment, 1 << (alignment % 64)] {
            if let Ok(plan) = super::super::plan(&buffers, &limits(alignment, 100)) {
                prop_assert_eq!(check(&buffers, &plan), Ok(()));
            }
        }
    }
}
