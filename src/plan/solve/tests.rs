#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
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
const FORMATS: [(u64, f64); 12] =
    [(32, 0.0), (16, 1e-6), (16, 6e-5), (8, 4e-3), (8, 1e-3), (8, 2e-3), (4, 1.2e-1), (4, 6e-2), (6, 1.5e-2), (5, 3e-2), (3, 3e-1), (2, 9e-1)];

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
                let mut rows: Vec<(u32, u64)> = (row..end).map(|r| (r as u32, elements * bits.max(8) / 8)).collect();
                // Narrow formats unpack a tile of weights, and mixed inputs are converted, while the node runs.
                if bits < 16 {
                    rows[step / 2].1 += weights / 16 + elements / 8;
                }
                let cost = sensitivity * error * (0.5 + rng.unit()) * (1 + weights / (1 << 18) + elements / (1 << 20)) as f64;
                Choice { cost, fixed_bytes: weights * bits / 8, rows }
            })
            .collect();
        groups.push(Group { choices });
    }
    let row_base = (0..n_rows).map(|r| (1 << 16) + (r as u64 % 7) * 4096).collect();
    Problem { groups, row_base, capacity: 0 }
}

/// Sets the capacity at `share` of the way from the smallest peak to that of the cheapest choices.
fn squeeze(problem: &mut Problem, share: f64) {
    let least = min_peak(problem, &Limits::default()).unwrap().peak;
    let most = problem.peak(&problem.cheapest());
    problem.capacity = least + ((most - least) as f64 * share) as u64;
}

#[test]
#[ignore = "prints timings"]
fn survey() {
    let limits = Limits::default();
    for kind in [Kind::Decoder, Kind::Attention, Kind::Cnn, Kind::Random] {
        for (groups, choices, rows) in [(24, 8, 60), (100, 8, 200), (211, 8, 1900), (1000, 12, 2000), (12, 8, 40), (48, 8, 400), (150, 8, 600)] {
            let mut problem = network(kind, groups, choices, rows, 7);
            let clock = Instant::now();
            let least = min_peak(&problem, &limits).unwrap();
            let time = clock.elapsed().as_secs_f64();
            println!("{kind:?} {groups}x{choices}x{rows}: min peak {} bound {} nodes {} in {time:.3} s", least.peak, least.bound, least.n_nodes);
            let most = problem.peak(&problem.cheapest());
            for share in [0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.95] {
                problem.capacity = least.peak + ((most - least.peak) as f64 * share) as u64;
                let clock = Instant::now();
                let s = solve(&problem, &limits).unwrap();
                let time = clock.elapsed().as_secs_f64();
                let gap = (s.objective - s.bound) / s.objective;
                println!("   share {share:.2}: {:.6e} gap {:.4} % nodes {} in {time:.3} s", s.objective, 100.0 * gap, s.n_nodes);
            }
        }
    }
}

#[test]
#[ignore = "prints timings"]
fn hard() {
    let limits = Limits::default();
    for kind in [Kind::Decoder, Kind::Attention, Kind::Cnn, Kind::Random] {
        for (groups, choices, rows) in [(12, 8, 24), (40, 8, 100), (80, 8, 300), (150, 8, 600), (211, 8, 600)] {
            let (mut n, mut nodes, mut slow, mut worst, mut over, mut rough) = (0, 0, 0.0f64, 0.0f64, 0, 0);
            let all = Instant::now();
            for seed in 0..8 {
                let mut problem = network(kind, groups, choices, rows, seed);
                let least = min_peak(&problem, &limits).unwrap();
                assert_eq!(least.peak, least.bound);
                let most = problem.peak(&problem.cheapest());
                for share in [0.01, 0.05, 0.15, 0.25, 0.5, 0.75, 0.95] {
                    problem.capacity = least.peak + ((most - least.peak) as f64 * share) as u64;
                    let clock = Instant::now();
                    let s = solve(&problem, &limits).unwrap();
                    slow = slow.max(clock.elapsed().as_secs_f64());
                    let gap = (s.objective - s.bound) / s.objective;
                    worst = worst.max(gap);
                    n += 1;
                    nodes += s.n_nodes;
                    over += usize::from(gap > 0.0051);
                    rough += usize::from(gap > 1e-8);
                }
            }
            println!(
                "{kind:?} {groups}x{choices}x{rows}: {n} runs, {rough} inexact, {over} over, worst gap {:.3} %, {nodes} nodes, slowest {slow:.3} s, all {:.2} s",
                100.0 * worst,
                all.elapsed().as_secs_f64()
            );
        }
    }
}

#[test]
#[ignore = "prints timings"]
fn trace() {
    for seed in 0..4 {
        let mut problem = network(Kind::Attention, 211, 8, 600, seed);
        let least = min_peak(&problem, &Limits::default()).unwrap();
        let most = problem.peak(&problem.cheapest());
        for share in [0.15, 0.25, 0.5, 0.75] {
            problem.capacity = least.peak + ((most - least.peak) as f64 * share) as u64;
            for max_nodes in [1, 500, 5000, 50_000] {
                let clock = Instant::now();
                let s = solve(&problem, &Limits { max_nodes, exact_nodes: 500, gap: 0.005 }).unwrap();
                let gap = (s.objective - s.bound) / s.objective;
                println!(
                    "seed {seed} share {share} {:.6e} {:.6e} gap {:.3} % nodes {} {:.2} s",
                    s.objective,
                    s.bound,
                    gap * 100.0,
                    s.n_nodes,
                    clock.elapsed().as_secs_f64()
                );
            }
        }
    }
}

#[test]
#[ignore = "prints timings"]
fn slowest() {
    for seed in 0..8 {
        let mut problem = network(Kind::Attention, 211, 8, 600, seed);
        let least = min_peak(&problem, &Limits::default()).unwrap();
        let most = problem.peak(&problem.cheapest());
        for share in [0.01, 0.05, 0.15, 0.25, 0.5, 0.75, 0.95] {
            problem.capacity = least.peak + ((most - least.peak) as f64 * share) as u64;
            let clock = Instant::now();
            let s = solve(&problem, &Limits::default()).unwrap();
            let gap = (s.objective - s.bound) / s.objective;
            if s.n_nodes > 5000 {
                println!(
                    "seed {seed} share {share} {:.6e} {:.6e} gap {:.3} % nodes {} {:.2} s",
                    s.objective,
                    s.bound,
                    gap * 100.0,
                    s.n_nodes,
                    clock.elapsed().as_secs_f64()
                );
            }
        }
    }
}
