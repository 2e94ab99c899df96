//! Restarts the exact search on ever lower capacities.
//!
//! The time of a single search is heavy-tailed: with one order of items it
//! ends within a few nodes per item, with the next one it never does.  So many
//! short searches are made, with different orders and with lengths in Luby's
//! sequence (Luby, Sinclair and Zuckerman, 1993), which is within a
//! logarithmic factor of the best sequence of lengths for any distribution.

use super::board::Pick;
use super::columns::{Item, Packing, Part, Sweep};
use super::exact::{self, Outcome};
use super::order::{self, Noise, Order};

/// The nodes of the shortest search, for each item of the part.
const NODES_PER_ITEM: u64 = 4;

const ORDERS: [Order; 4] = [Order::Size, Order::Area, Order::Contention, Order::Width];

const PICKS: [Pick; 3] = [Pick::FewestMoves, Pick::LowestFloor, Pick::LeastSlack];

/// Lowers the highest parts while nodes are left; returns the nodes searched.
///
/// `packings` are those of the parts of the sweep, in their order.
pub(super) fn refine(sweep: &Sweep, packings: &mut [Packing], max_nodes: u64) -> u64 {
    let mut order: Vec<usize> = (0..packings.len()).collect();
    order.sort_by_key(|&p| (std::cmp::Reverse(packings[p].height), p));
    let mut goal = sweep.bound;
    let mut n_nodes = 0;
    let mut n_high = packings.iter().filter(|packing| packing.height > goal).count() as u64;
    for p in order {
        if packings[p].height <= goal {
            continue;
        }
        let share = (max_nodes - n_nodes.min(max_nodes)) / n_high.max(1);
        n_nodes += refine_part(&sweep.parts[p], &mut packings[p], goal, share);
        n_high = n_high.saturating_sub(1);
        // The arena holds the highest part, so no other need be lower.
        goal = goal.max(packings[p].height);
    }
    n_nodes
}

fn refine_part(part: &Part, best: &mut Packing, mut goal: u64, max_nodes: u64) -> u64 {
    let n_items = part.items.len() as u64;
    let shortest = n_items.saturating_mul(NODES_PER_ITEM * exact::price(part.loads.len()));
    let mut noise = Noise(0);
    let mut n_nodes = 0;
    for round in 0.. {
        // A search shorter than this seldom gets to place every item.
        if goal >= best.height || max_nodes - n_nodes.min(max_nodes) < shortest {
            break;
        }
        let order = ORDERS[round % ORDERS.len()];
        let pick = PICKS[round / ORDERS.len() % PICKS.len()];
        let cycle = round / (ORDERS.len() * PICKS.len());
        let gap = best.height - 1 - goal;
        let capacity = goal + [0, gap / 2, gap - gap / 4][cycle % 3];
        let length = shortest.saturating_mul(luby(cycle as u64 / 3 + 1));

        let mut keys = order::keys(part, order);
        if cycle > 0 {
            for key in &mut keys {
                key.0 = key.0.saturating_mul(u128::from(noise.factor()));
            }
        }
        let gm: usize = std::env::var("GM").map_or(0, |x| x.parse().unwrap());
        let amp: u64 = std::env::var("AMP").map_or(16, |x| x.parse().unwrap());
        if gm > 0 && cycle % gm == gm - 1 {
            for (key, at) in keys.iter_mut().zip(&best.offsets) {
                let f = 256 + (noise.factor() * amp) / 128 - amp * 2;
                key.0 = u128::from(best.height - at) * u128::from(f);
            }
        }
        let sequence = order::descending(&keys);
        let items: Vec<Item> = sequence.iter().map(|&i| part.items[i]).collect();
        let limit = n_nodes.saturating_add(length).min(max_nodes);
        match exact::search(&items, &part.loads, capacity, pick, limit, &mut n_nodes) {
            Outcome::Packed(ranked) => {
                let mut offsets = vec![0; ranked.len()];
                for (&i, at) in sequence.iter().zip(ranked) {
                    offsets[i] = at;
                }
                *best = Packing::new(&part.items, offsets);
            }
            Outcome::Infeasible => goal = capacity + 1,
            Outcome::OutOfNodes => {}
        }
    }
    n_nodes
}

/// The `i`th term, from 1, of 1, 1, 2, 1, 1, 2, 4, 1, 1, 2, ...
fn luby(mut i: u64) -> u64 {
    loop {
        let length = (i + 1).next_power_of_two();
        if length == i + 1 {
            return length / 2;
        }
        i -= length / 2 - 1;
    }
}
