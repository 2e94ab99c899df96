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

/// The kinds of searches in [`refine_part`] that take turns.
const N_KINDS: usize = 4;

/// The most columns, added up over all items, of a part that is searched.
///
/// The search keeps what it needs to undo for each of them, some 100 MB.
const MAX_CELLS: usize = 1 << 21;

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
        let share = max_nodes.saturating_sub(n_nodes) / n_high.max(1);
        n_nodes += refine_part(&sweep.parts[p], &mut packings[p], goal, share);
        n_high = n_high.saturating_sub(1);
        // The arena holds the highest part, so no other need be lower.
        goal = goal.max(packings[p].height);
    }
    n_nodes
}

/// Lowers one part towards `goal` units; returns the nodes searched.
///
/// Three capacities are tried in turn: the goal, which most often can be met
/// and ends the matter; halfway to it, for parts that cannot be packed as low;
/// and one a little below the best packing so far.  For the last the items are
/// every other time preferred in the order of that packing, since packings
/// nearly as low are often alike.
fn refine_part(part: &Part, best: &mut Packing, mut goal: u64, max_nodes: u64) -> u64 {
    let cells = part.items.iter().map(|item| item.hi - item.lo);
    if cells.fold(0, usize::saturating_add) > MAX_CELLS {
        return 0;
    }
    let n_items = part.items.len();
    let price = exact::price(part.loads.len() + n_items);
    let shortest = price.saturating_mul(NODES_PER_ITEM * n_items as u64);
    let mut noise = Noise::default();
    let mut n_nodes = 0_u64;
    for round in 0.. {
        // A shorter search seldom comes to place every item.
        if goal >= best.height || max_nodes.saturating_sub(n_nodes) < shortest {
            break;
        }
        let order = ORDERS[round % ORDERS.len()];
        let pick = PICKS[round / ORDERS.len() % PICKS.len()];
        let cycle = round / (ORDERS.len() * PICKS.len());
        let gap = best.height - 1 - goal;
        let capacity = match cycle % N_KINDS {
            0 => goal,
            1 => goal + gap / 2,
            _ => goal + gap - gap / 4,
        };
        let mut keys = match cycle % N_KINDS {
            2 => order::lowest_first(best),
            _ => order::keys(part, order),
        };
        if cycle > 0 {
            noise.blur(&mut keys);
        }
        let sequence = order::descending(&keys);
        let items: Vec<Item> = sequence.iter().map(|&i| part.items[i]).collect();
        let length = shortest.saturating_mul(luby((cycle / N_KINDS) as u64 + 1));
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
            Outcome::GaveUp => {}
        }
    }
    n_nodes
}

/// The `i`th term, from 1, of 1, 1, 2, 1, 1, 2, 4, 1, 1, 2, ...
pub(super) fn luby(mut i: u64) -> u64 {
    loop {
        let length = (i + 1).next_power_of_two();
        if length == i + 1 {
            return length / 2;
        }
        i -= length / 2 - 1;
    }
}
