#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]
use super::*;
use proptest::prelude::*;
use std::time::Instant;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Roughly standard normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Equal layers, the weights outweigh the activations.
    Decoder,
    /// Equal layers, each with a large score tensor of its own.
    Attention,
    /// Activations shrink and weights grow with depth, skip connections.
    Cnn,
    /// No structure.
    Random,
}

/// Bits and relative error of up to twelve formats.
const FORMATS: [(u64, f64); 12] = [
    (32, 0.0),
    (16, 1e-6),
    (16, 6e-5),
    (8, 4e-3),
    (8, 1e-3),
    (8, 2e-3),
    (4, 1.2e-1),
    (4, 6e-2),
    (6, 1.5e-2),
    (5, 3e-2),
    (3, 3e-1),
    (2, 9e-1),
];

fn network(kind: Kind, n_groups: usize, n_choices: usize, n_rows: usize, seed: u64) -> Problem {
    let rng = &mut Rng(seed);
    let step = (n_rows / n_groups).max(1);
    let per_layer = 9;
    let mut groups = Vec::new();
    for g in 0..n_groups {
        let row = g * n_rows / n_groups;
        let (layer, node) = (g / per_layer, g % per_layer);
        let depth = g as f64 / n_groups as f64;
        let (weights, elements, life) = match kind {
            Kind::Decoder => {
                let weights = [0, 4, 4, 4, 0, 4, 11, 11, 11][node] * (1 << 20);
                let elements = [1, 1, 1, 1, 8, 1, 3, 3, 1][node] * (1 << 17);
                (weights, elements, [9, 5, 4, 3, 1, 4, 2, 1, 9][node])
            }
            Kind::Attention => {
                let weights = [0, 1, 1, 1, 0, 0, 1, 4, 4][node] * (1 << 18);
                let elements = [1, 1, 1, 1, 24, 24, 1, 4, 1][node] * (1 << 18);
                (weights, elements, [9, 4, 3, 4, 1, 1, 2, 1, 9][node])
            }
            Kind::Cnn => {
                let weights = ((1u64 << 12) as f64 * (1.0 + depth * 300.0)) as u64;
                let elements = ((1u64 << 21) as f64 * (-(depth * 5.0)).exp()) as u64;
                (weights, elements, if node % 3 == 0 { 4 } else { 1 })
            }
            Kind::Random => (rng.below(1 << 24), rng.below(1 << 24), 1 + rng.below(n_groups as u64 / 4 + 1) as usize),
        };
        let sensitivity = (rng.normal() * 1.5 - 2.0).exp() * (1.0 + 0.1 * layer as f64);
        let end = (row + step * life + 1).min(n_rows);
        let choices = (0..n_choices)
            .map(|f| {
                let (bits, error) = FORMATS[f];
                let mut rows: Vec<Run> = (row..end).map(|r| one(r as u32, elements * bits.max(8) / 8)).collect();
                // Narrow formats unpack a tile of weights, and mixed inputs are converted, while the node runs.
                if bits < 16 {
                    rows[step / 2].bytes += weights / 16 + elements / 8;
                }
                let cost =
                    sensitivity * error * (0.5 + rng.unit()) * (1 + weights / (1 << 18) + elements / (1 << 20)) as f64;
                Choice { cost, fixed_bytes: weights * bits / 8, rows }
            })
            .collect();
        groups.push(Group { choices });
    }
    let row_base = (0..n_rows).map(|r| (1 << 16) + (r as u64 % 7) * 4096).collect();
    Problem { groups, row_base, capacity: 0 }
}

fn one(row: u32, bytes: u64) -> Run {
    Run { first: row, last: row, bytes }
}

/// Sets the capacity at `share` of the way from the smallest peak, `least`, to that of the cheapest choices.
fn squeeze(problem: &mut Problem, least: u64, share: f64) {
    let most = problem.peak(&problem.cheapest());
    problem.capacity = least + (most.saturating_sub(least) as f64 * share) as u64;
}

/// The least cost of all assignments that fit, and the least peak of all.
fn brute_force(problem: &Problem) -> (Option<f64>, u64) {
    let mut choice = vec![0; problem.groups.len()];
    let (mut best, mut least) = (None, u64::MAX);
    loop {
        let (peak, cost) = (problem.peak(&choice), problem.cost(&choice));
        least = least.min(peak);
        if peak <= problem.capacity && best.is_none_or(|b| cost < b) {
            best = Some(cost);
        }
        let Some(g) = (0..choice.len()).find(|&g| choice[g] + 1 < problem.groups[g].choices.len()) else {
            return (best, least);
        };
        choice[g] += 1;
        choice[..g].fill(0);
    }
}

/// Bytes and costs of few distinct values make ties and degenerate bases; spread ones test the scaling.
fn small_problem() -> impl Strategy<Value = Problem> {
    let bytes = || prop_oneof![3 => 0u64..6, 1 => Just(0u64)];
    let cost = prop_oneof![2 => (0u32..5).prop_map(f64::from), 3 => (-9.0..3.0f64).prop_map(|e| 10f64.powf(e))];
    let size = prop_oneof![Just(1u64), Just(20_000_000_011), Just(1_000_003)];
    (1usize..=6, size, any::<bool>()).prop_flat_map(move |(n_rows, size, ragged)| {
        let noise = if ragged { size } else { 1 };
        let bytes = move || (bytes(), 0..noise).prop_map(move |(b, n)| if b == 0 { 0 } else { b * size + n });
        let rows = prop::collection::vec(bytes(), n_rows).prop_map(|rows| {
            let mut runs: Vec<Run> = Vec::new();
            for (row, bytes) in (0..).zip(rows).filter(|r| r.1 > 0) {
                match runs.last_mut() {
                    Some(run) if run.bytes == bytes && run.last + 1 == row => run.last = row,
                    _ => runs.push(one(row, bytes)),
                }
            }
            runs
        });
        let choice =
            (cost.clone(), bytes(), rows).prop_map(|(cost, fixed_bytes, rows)| Choice { cost, fixed_bytes, rows });
        let group = prop::collection::vec(choice, 1..=5).prop_map(|choices| Group { choices });
        let groups = prop::collection::vec(group, 0..=6);
        (groups, prop::collection::vec(bytes(), n_rows), -0.1..1.0f64).prop_map(|(groups, row_base, share)| {
            let mut problem = Problem { groups, row_base, capacity: 0 };
            let least = brute_force(&problem).1;
            squeeze(&mut problem, least, share.max(0.0));
            if share < 0.0 {
                problem.capacity = (least as f64 * (1.0 + share)) as u64;
            }
            problem
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_brute_force(problem in small_problem()) {
        let (best, least) = brute_force(&problem);
        match solve(&problem, &Limits::default()) {
            Ok(s) => {
                let best = best.expect("something fits");
                prop_assert_eq!(s.objective, problem.cost(&s.choice));
                prop_assert_eq!(s.peak, problem.peak(&s.choice));
                prop_assert!(s.peak <= problem.capacity);
                prop_assert!(s.objective >= best && s.objective <= best * (1.0 + 1e-9), "{} is not {}", s.objective, best);
                prop_assert!(s.bound <= best && s.bound >= s.objective * (1.0 - 2e-9), "{} does not bound {}", s.bound, best);
                prop_assert!(s.shadow_price >= 0.0 && s.shadow_price.is_finite());
            }
            Err(SolveError::Infeasible { min_peak, bound, .. }) => {
                prop_assert_eq!(best, None);
                prop_assert_eq!((min_peak, bound), (least, least));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn smallest_peak_is_exact(problem in small_problem()) {
        let found = min_peak(&problem, &Limits::default()).unwrap();
        prop_assert_eq!(problem.peak(&found.choice), found.peak);
        prop_assert_eq!((found.peak, found.bound), (brute_force(&problem).1, found.peak));
        // Among the assignments with that peak, the cheapest.
        let tight = Problem { capacity: found.peak, ..problem };
        let best = brute_force(&tight).0.expect("the smallest peak fits");
        prop_assert!(tight.cost(&found.choice) <= best * (1.0 + 1e-9));
    }

    #[test]
    fn short_searches_are_sound(problem in small_problem(), max_nodes in 0usize..4, gap in 0.0..0.2f64) {
        let (best, least) = brute_force(&problem);
        match solve(&problem, &Limits { max_nodes, exact_nodes: 0, gap, ..Limits::default() }) {
            Ok(s) => {
                let best = best.expect("something fits");
                prop_assert!(s.peak <= problem.capacity && s.bound <= best && best <= s.objective);
            }
            Err(SolveError::Infeasible { min_peak, bound, .. }) => {
                prop_assert!(best.is_none() && bound <= least && least <= min_peak);
            }
            Err(SolveError::Undecided { min_peak, bound, .. }) => prop_assert!(bound <= least && least <= min_peak),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

const KINDS: [Kind; 4] = [Kind::Decoder, Kind::Attention, Kind::Cnn, Kind::Random];

#[test]
fn large_networks_are_solved_to_a_small_gap() {
    for kind in KINDS {
        let mut problem = network(kind, 100, 8, 200, 3);
        let least = min_peak(&problem, &Limits::default()).unwrap();
        assert_eq!(least.peak, least.bound, "{kind:?}");
        for share in [0.0, 0.05, 0.3, 0.8] {
            squeeze(&mut problem, least.peak, share);
            let s = solve(&problem, &Limits::default()).unwrap();
            assert_eq!(s.peak, problem.peak(&s.choice));
            assert!(s.peak <= problem.capacity);
            assert!(
                s.objective - s.bound <= 0.01 * s.objective,
                "{kind:?} at {share}: {} over {}",
                s.objective,
                s.bound
            );
            assert!(s.n_nodes <= 4000, "{kind:?} at {share}: {} nodes", s.n_nodes);
        }
    }
}

#[test]
fn short_searches_bound_long_ones() {
    for kind in KINDS {
        let mut problem = network(kind, 40, 8, 100, 9);
        let least = min_peak(&problem, &Limits::default()).unwrap().peak;
        for share in [0.03, 0.2, 0.6] {
            squeeze(&mut problem, least, share);
            let long = solve(&problem, &Limits { exact_nodes: 10_000, ..Limits::default() }).unwrap();
            assert!(long.bound >= long.objective * (1.0 - 2e-9), "{kind:?} at {share}");
            for max_nodes in [0, 3, 20] {
                let short = solve(&problem, &Limits { max_nodes, ..Limits::default() }).unwrap();
                assert!(
                    short.bound <= long.objective && long.bound <= short.objective,
                    "{kind:?} at {share}, {max_nodes} nodes"
                );
            }
        }
    }
}

#[test]
fn the_relaxation_bounds_and_divides_little() {
    for kind in KINDS {
        let mut problem = network(kind, 40, 8, 100, 9);
        let least = min_peak(&problem, &Limits::default()).unwrap().peak;
        squeeze(&mut problem, least, 0.3);
        let solved = solve(&problem, &Limits::default()).unwrap();
        let relaxed = relax(&problem, &Limits::default()).unwrap();
        assert!(
            relaxed.bound <= solved.objective && relaxed.bound > 0.0,
            "{kind:?}: {} over {}",
            relaxed.bound,
            solved.objective
        );
        // A vertex of the relaxation divides at most one group for each row that binds.
        assert!(relaxed.divided.len() <= problem.row_base.len(), "{kind:?}");
        for (_, parts) in &relaxed.divided {
            let sum: f64 = parts.iter().map(|p| p.1).sum();
            assert!(parts.len() > 1 && (sum - 1.0).abs() < 1e-6, "{kind:?}: {parts:?}");
        }
        problem.capacity = least - 1;
        assert!(relax(&problem, &Limits::default()).is_err(), "{kind:?}");
    }
}

#[test]
fn units_do_not_matter() {
    let mut problem = network(Kind::Attention, 40, 8, 100, 4);
    let least = min_peak(&problem, &Limits::default()).unwrap().peak;
    squeeze(&mut problem, least, 0.1);
    let plain = solve(&problem, &Limits::default()).unwrap();
    // Powers of two, so that the same roundings happen.
    for (cost, bytes) in [(2f64.powi(-60), 1), (2f64.powi(60), 1), (1.0, 1 << 20)] {
        let mut other = problem.clone();
        other.capacity *= bytes;
        other.row_base.iter_mut().for_each(|b| *b *= bytes);
        for choice in other.groups.iter_mut().flat_map(|g| &mut g.choices) {
            choice.cost *= cost;
            choice.fixed_bytes *= bytes;
            choice.rows.iter_mut().for_each(|r| r.bytes *= bytes);
        }
        let scaled = solve(&other, &Limits::default()).unwrap();
        assert_eq!(scaled.choice, plain.choice);
        assert_eq!((scaled.objective, scaled.bound), (plain.objective * cost, plain.bound * cost));
    }
}

#[test]
fn infeasible_networks_give_the_smallest_peak() {
    for kind in KINDS {
        let mut problem = network(kind, 60, 8, 150, 5);
        let least = min_peak(&problem, &Limits::default()).unwrap().peak;
        problem.capacity = least - 1;
        let error = solve(&problem, &Limits::default()).unwrap_err();
        assert_eq!(error, SolveError::Infeasible { min_peak: least, bound: least, capacity: least - 1 });
        problem.capacity = least;
        assert_eq!(solve(&problem, &Limits::default()).unwrap().peak, least);
    }
}

#[test]
fn more_capacity_is_never_worse() {
    for kind in KINDS {
        let mut problem = network(kind, 60, 8, 150, 11);
        let least = min_peak(&problem, &Limits::default()).unwrap().peak;
        let mut last = f64::INFINITY;
        for step in 0..20 {
            squeeze(&mut problem, least, f64::from(step) / 19.0);
            let objective = solve(&problem, &Limits::default()).unwrap().objective;
            assert!(objective <= 1.01 * last, "{kind:?} at {step}: {objective} after {last}");
            last = objective;
        }
        assert_eq!(last, 0.0, "{kind:?}");
    }
}

/// Thousands of groups over thousands of rows, in which each row is as full as the next: the work is limited, and the
/// answer is proven as far as it went.
#[test]
fn work_is_limited_and_bounds_stay_sound() {
    for kind in [Kind::Decoder, Kind::Attention] {
        let mut problem = network(kind, 300, 8, 1200, 3);
        let least = min_peak(&problem, &Limits::default()).unwrap();
        squeeze(&mut problem, least.peak, 0.3);
        let long = solve(&problem, &Limits::default()).unwrap();
        for max_work in [0, 1 << 20] {
            let limits = Limits { max_work, ..Limits::default() };
            let short = solve(&problem, &limits).unwrap();
            assert!(
                short.peak <= problem.capacity && short.bound <= long.objective && long.bound <= short.objective,
                "{kind:?} {max_work}"
            );
            let small = min_peak(&problem, &limits).unwrap();
            assert!(small.bound <= least.peak && least.bound <= small.peak, "{kind:?} {max_work}");
        }
    }
}

#[test]
fn answers_are_reproducible() {
    let mut problem = network(Kind::Attention, 80, 8, 200, 2);
    let least = min_peak(&problem, &Limits::default()).unwrap().peak;
    squeeze(&mut problem, least, 0.1);
    assert_eq!(solve(&problem, &Limits::default()), solve(&problem, &Limits::default()));
    assert_eq!(min_peak(&problem, &Limits::default()), min_peak(&problem, &Limits::default()));
}

#[test]
fn cheapest_choices_are_taken_where_they_fit() {
    let mut problem = network(Kind::Cnn, 30, 8, 60, 1);
    for capacity in [problem.peak(&problem.cheapest()), u64::MAX] {
        problem.capacity = capacity;
        let s = solve(&problem, &Limits::default()).unwrap();
        assert_eq!((s.objective, s.bound, s.n_nodes, s.shadow_price), (0.0, 0.0, 0, 0.0));
        assert_eq!(s.choice, vec![0; 30]);
    }
}

#[test]
fn shadow_price_is_the_slope_of_a_divisible_choice() {
    // One of many equal groups takes the large choice with each hundred bytes.
    let group = Group {
        choices: vec![
            Choice { cost: 0.0, fixed_bytes: 150, rows: Vec::new() },
            Choice { cost: 2.0, fixed_bytes: 50, rows: Vec::new() },
        ],
    };
    let problem = Problem { groups: vec![group; 40], row_base: vec![0, 7], capacity: 40 * 100 + 7 };
    let s = solve(&problem, &Limits::default()).unwrap();
    assert_eq!(s.objective, 40.0);
    assert!((s.bound - 40.0).abs() < 1e-9);
    assert!((s.shadow_price - 0.02).abs() < 1e-12);
}

#[test]
fn malformed_problems_are_refused() {
    let choice = |cost, fixed_bytes, rows: &[(u32, u64)]| Choice {
        cost,
        fixed_bytes,
        rows: rows.iter().map(|&(row, bytes)| one(row, bytes)).collect(),
    };
    let check = |choices: Vec<Choice>| {
        let problem = Problem { groups: vec![Group { choices }], row_base: vec![0; 3], capacity: 1 };
        let errors =
            [solve(&problem, &Limits::default()).unwrap_err(), min_peak(&problem, &Limits::default()).unwrap_err()];
        assert_eq!(errors[0].to_string(), errors[1].to_string());
        errors[0].clone()
    };
    assert_eq!(check(Vec::new()), SolveError::EmptyGroup { group: 0 });
    assert_eq!(check(vec![choice(-1.0, 0, &[])]), SolveError::Cost { group: 0, choice: 0, cost: -1.0 });
    assert!(matches!(check(vec![choice(f64::NAN, 0, &[])]), SolveError::Cost { .. }));
    assert!(matches!(check(vec![choice(f64::INFINITY, 0, &[])]), SolveError::Cost { .. }));
    assert_eq!(check(vec![choice(0.0, 0, &[(3, 1)])]), SolveError::Row { group: 0, choice: 0, row: 3 });
    assert_eq!(check(vec![choice(0.0, 0, &[(1, 1), (1, 1)])]), SolveError::Row { group: 0, choice: 0, row: 1 });
    assert_eq!(check(vec![choice(0.0, 0, &[(u32::MAX, 1)])]), SolveError::Row { group: 0, choice: 0, row: u32::MAX });
    let backwards = Choice { cost: 0.0, fixed_bytes: 0, rows: vec![Run { first: 2, last: 1, bytes: 1 }] };
    assert_eq!(check(vec![backwards]), SolveError::Row { group: 0, choice: 0, row: 2 });
    let beyond = Choice { cost: 0.0, fixed_bytes: 0, rows: vec![Run { first: 1, last: 3, bytes: 1 }] };
    assert_eq!(check(vec![beyond]), SolveError::Row { group: 0, choice: 0, row: 1 });
    assert_eq!(check(vec![choice(0.0, MAX_BYTES, &[(1, 1)])]), SolveError::Overflow);
}

#[test]
#[ignore = "prints timings: cargo test --lib solve::tests::timings -- --ignored --nocapture"]
fn timings() {
    for (groups, choices, rows) in [(24, 8, 60), (100, 8, 200), (211, 8, 1900), (1000, 12, 2000)] {
        for kind in KINDS {
            let mut problem = network(kind, groups, choices, rows, 1);
            let clock = Instant::now();
            let least = min_peak(&problem, &Limits::default()).unwrap();
            let time = clock.elapsed().as_secs_f64();
            let short = least.peak - least.bound;
            println!(
                "{groups}x{choices}x{rows} {kind:?}: smallest peak {} - {short}, {} nodes, {time:.3} s",
                least.peak, least.n_nodes
            );
            for share in [0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95] {
                squeeze(&mut problem, least.peak, share);
                let clock = Instant::now();
                let s = solve(&problem, &Limits::default()).unwrap();
                let time = clock.elapsed().as_secs_f64();
                let gap = 100.0 * (s.objective - s.bound) / s.objective;
                println!("    at {share:.2}: {:.4e}, gap {gap:.3} %, {} nodes, {time:.3} s", s.objective, s.n_nodes);
            }
        }
    }
}

/// Many networks of the sizes in between, for the share of answers that are exact and the worst gap.
#[test]
#[ignore = "prints timings: cargo test --lib solve::tests::gaps -- --ignored --nocapture"]
fn gaps() {
    for kind in KINDS {
        for (groups, choices, rows) in [(12, 8, 24), (40, 8, 100), (80, 8, 300), (150, 8, 600), (211, 8, 600)] {
            let (mut runs, mut exact, mut worst, mut nodes, mut slowest) = (0, 0, 0.0f64, 0, 0.0f64);
            for seed in 0..8 {
                let mut problem = network(kind, groups, choices, rows, seed);
                let least = min_peak(&problem, &Limits::default()).unwrap();
                assert_eq!(least.peak, least.bound);
                for share in [0.01, 0.05, 0.15, 0.25, 0.5, 0.75, 0.95] {
                    squeeze(&mut problem, least.peak, share);
                    let clock = Instant::now();
                    let s = solve(&problem, &Limits::default()).unwrap();
                    slowest = slowest.max(clock.elapsed().as_secs_f64());
                    let gap = (s.objective - s.bound) / s.objective;
                    runs += 1;
                    exact += usize::from(gap < 1e-8);
                    worst = worst.max(gap);
                    nodes = nodes.max(s.n_nodes);
                }
            }
            let worst = 100.0 * worst;
            println!(
                "{kind:?} {groups}x{choices}x{rows}: {exact} of {runs} exact, worst gap {worst:.3} %, at most {nodes} nodes, slowest {slowest:.3} s"
            );
        }
    }
}
