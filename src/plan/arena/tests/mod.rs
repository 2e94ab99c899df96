mod properties;
mod traces;

use super::{ArenaError, ArenaLimits, ArenaPlan, Buffer, check, max_live, plan};

fn limits(alignment: u64, max_nodes: u64) -> ArenaLimits {
    ArenaLimits { alignment, max_nodes }
}

fn buffer(bytes: u64, first: usize, last: usize) -> Buffer {
    Buffer { bytes, first, last }
}

/// Plans and checks; there is no other way to a plan in these tests.
fn checked_plan(buffers: &[Buffer], alignment: u64, max_nodes: u64) -> ArenaPlan {
    let plan = plan(buffers, &limits(alignment, max_nodes)).expect("the buffers are valid");
    assert_eq!(check(buffers, &plan), Ok(()));
    assert!(plan.bytes >= plan.max_live);
    let live = max_live(buffers, alignment).expect("the buffers are valid");
    assert_eq!(live, (plan.max_live, plan.max_live_step));
    plan
}

#[test]
fn no_buffers_need_no_arena() {
    let plan = checked_plan(&[], 64, 100);
    assert_eq!((plan.bytes, plan.max_live, plan.max_live_step), (0, 0, 0));
}

#[test]
fn empty_buffers_take_no_space() {
    let buffers = [buffer(0, 0, 9), buffer(100, 2, 3), buffer(0, 3, 3)];
    let plan = checked_plan(&buffers, 64, 100);
    assert_eq!(plan.offsets, [0, 0, 0]);
    assert_eq!((plan.bytes, plan.max_live_step), (128, 2));
}

#[test]
fn a_chain_takes_its_two_largest_neighbours() {
    let sizes = [5, 9, 2, 8, 8, 1, 7, 3];
    let chain: Vec<_> = (0..8).map(|i| buffer(sizes[i], i, i + 1)).collect();
    let plan = checked_plan(&chain, 1, 0);
    assert_eq!((plan.bytes, plan.max_live_step, plan.n_nodes), (16, 4, 0));
}

#[test]
fn a_diamond_meets_the_bound() {
    // a feeds b and c, which feed d.
    let buffers = [buffer(300, 0, 2), buffer(200, 1, 3), buffer(100, 2, 3), buffer(300, 3, 4)];
    let plan = checked_plan(&buffers, 1, 1000);
    assert_eq!((plan.bytes, plan.max_live, plan.max_live_step), (600, 600, 2));
}

#[test]
fn buffers_that_share_no_step_share_their_bytes() {
    let plan = checked_plan(&[buffer(10, 0, 4), buffer(7, 5, 5), buffer(9, 6, 8)], 1, 0);
    assert_eq!((plan.offsets, plan.bytes), (vec![0, 0, 0], 10));
}

#[test]
fn buffers_that_share_only_their_end_step_are_apart() {
    let plan = checked_plan(&[buffer(10, 0, 4), buffer(7, 4, 5)], 1, 0);
    assert_eq!(plan.bytes, 17);
}

#[test]
fn offsets_and_sizes_are_rounded_to_the_alignment() {
    let buffers = [buffer(1, 0, 1), buffer(257, 0, 2), buffer(256, 1, 2), buffer(100, 2, 3)];
    let plan = checked_plan(&buffers, 256, 1000);
    assert_eq!((plan.bytes, plan.max_live, plan.max_live_step), (1024, 1024, 1));
    assert!(plan.offsets.iter().all(|at| at % 256 == 0));
}

#[test]
fn the_example_of_minimalloc_fits_its_capacity() {
    let rows = [(0, 3, 4), (3, 9, 4), (0, 9, 4), (9, 21, 4), (0, 21, 4)];
    let buffers = rows.map(|(first, end, bytes)| buffer(bytes, first, end - 1));
    assert_eq!(checked_plan(&buffers, 1, 1000).bytes, 12);
}

#[test]
fn steps_may_be_the_largest_there_are() {
    let end = usize::MAX;
    let plan = checked_plan(&[buffer(8, 0, end), buffer(8, end, end), buffer(4, 1, end - 1)], 4, 9);
    assert_eq!((plan.bytes, plan.max_live_step), (16, end));
}

#[test]
fn alignments_other_than_powers_of_two_are_refused() {
    for alignment in [0, 3, 96, u64::MAX] {
        let error = Err(ArenaError::Alignment { alignment });
        assert_eq!(plan(&[buffer(1, 0, 0)], &limits(alignment, 0)), error);
        assert_eq!(max_live(&[], alignment), Err(ArenaError::Alignment { alignment }));
    }
}

#[test]
fn lifetimes_that_end_before_they_start_are_refused() {
    let buffers = [buffer(1, 0, 0), buffer(0, 5, 4)];
    let error = ArenaError::Interval { buffer: 1, first: 5, last: 4 };
    assert_eq!(plan(&buffers, &limits(1, 0)), Err(error));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let overflow = |index| Err(ArenaError::Overflow { buffer: index });
    assert_eq!(plan(&[buffer(u64::MAX, 0, 0)], &limits(256, 0)), overflow(0));
    assert_eq!(plan(&[buffer(u64::MAX, 0, 0)], &limits(1, 0)), overflow(0));
    let halves = [buffer(u64::MAX / 8 + 1, 0, 0), buffer(u64::MAX / 8 + 1, 1, 1)];
    assert_eq!(plan(&halves, &limits(1, 0)), overflow(1));
    assert_eq!(plan(&[buffer(1, 0, 0)], &limits(1 << 63, 0)), overflow(0));
}

#[test]
fn the_largest_sizes_allowed_are_planned() {
    let half = u64::MAX / 8;
    let buffers = [buffer(half, 0, 2), buffer(half - 1, 1, 1), buffer(1, 2, 3)];
    assert_eq!(checked_plan(&buffers, 1, 1000).bytes, 2 * half - 1);
}

#[test]
fn plans_are_a_function_of_their_input() {
    let buffers = traces::random(60, 30, 1 << 16, 7);
    let first = checked_plan(&buffers, 16, 20_000);
    assert_eq!(first, checked_plan(&buffers, 16, 20_000));
}

#[test]
fn the_lengths_of_searches_are_those_of_luby() {
    let terms: Vec<u64> = (1..=15).map(super::refine::luby).collect();
    assert_eq!(terms, [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]);
}

#[test]
fn the_search_keeps_to_its_nodes() {
    let buffers = traces::random(300, 80, 1 << 20, 3);
    let greedy = checked_plan(&buffers, 1, 0);
    let searched = checked_plan(&buffers, 1, 10_000);
    assert_eq!(greedy.n_nodes, 0);
    assert!((1..=10_000).contains(&searched.n_nodes));
    assert!(searched.bytes <= greedy.bytes);
}

#[test]
fn check_finds_each_flaw() {
    let buffers = [buffer(10, 0, 4), buffer(20, 4, 6), buffer(0, 0, 9)];
    let plan = |offsets: [u64; 3], bytes| {
        let offsets = offsets.to_vec();
        ArenaPlan { offsets, bytes, alignment: 8, max_live: 0, max_live_step: 0, n_nodes: 0 }
    };
    assert_eq!(check(&buffers, &plan([24, 0, 0], 40)), Ok(()));
    let flaws = [
        (plan([16, 0, 0], 40), ArenaError::Overlap { a: 0, b: 1, step: 4 }),
        (plan([0, 8, 0], 40), ArenaError::Overlap { a: 0, b: 1, step: 4 }),
        (plan([0, 0, 0], 40), ArenaError::Overlap { a: 0, b: 1, step: 4 }),
        (plan([25, 0, 0], 48), ArenaError::Misaligned { buffer: 0, offset: 25 }),
        (plan([24, 0, 0], 32), ArenaError::Outside { buffer: 0, offset: 24 }),
        (plan([24, u64::MAX - 7, 0], 40), ArenaError::Outside { buffer: 1, offset: u64::MAX - 7 }),
        (plan([24, 0, 48], 40), ArenaError::Outside { buffer: 2, offset: 48 }),
        (ArenaPlan { alignment: 0, ..plan([0; 3], 0) }, ArenaError::Alignment { alignment: 0 }),
        (ArenaPlan { offsets: vec![0], ..plan([0; 3], 0) }, ArenaError::Count { n_offsets: 1, n_buffers: 3 }),
    ];
    for (plan, flaw) in flaws {
        assert_eq!(check(&buffers, &plan), Err(flaw));
    }
}
