//! Traces like those of neural nets, and the instances of MiniMalloc.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]

use std::time::Instant;

use super::super::Buffer;
use super::{buffer, checked_plan};

/// Uniform random lifetimes and sizes, from a fixed xorshift stream.
pub(super) fn random(n: usize, n_steps: usize, max_bytes: u64, seed: u64) -> Vec<Buffer> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut lifetime = |_| {
        let (a, b) = (draw(n_steps as u64) as usize, draw(n_steps as u64) as usize);
        buffer(1 + draw(max_bytes), a.min(b), a.max(b))
    };
    (0..n).map(&mut lifetime).collect()
}

fn chain(n: usize) -> Vec<Buffer> {
    let sizes = random(n, 1, 1 << 20, 5);
    sizes.iter().enumerate().map(|(i, b)| buffer(b.bytes, i, i + 1)).collect()
}

/// A net under construction: each node's output is live from its step to that
/// of its last reader.
#[derive(Default)]
struct Net(Vec<Buffer>);

impl Net {
    fn node(&mut self, bytes: u64, inputs: &[usize]) -> usize {
        let step = self.0.len();
        for &input in inputs {
            self.0[input].last = step;
        }
        self.0.push(buffer(bytes, step, step));
        step
    }
}

fn resnet() -> Vec<Buffer> {
    let mut net = Net::default();
    let mut x = net.node(3 * 224 * 224 * 4, &[]);
    x = net.node(64 * 112 * 112 * 4, &[x]);
    x = net.node(64 * 56 * 56 * 4, &[x]);
    for (width, side, blocks) in [(64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)] {
        for block in 0..blocks {
            let out = 4 * width * side * side * 4;
            let a = net.node(width * side * side * 4, &[x]);
            let b = net.node(width * side * side * 4, &[a]);
            let c = net.node(out, &[b]);
            let skip = if block == 0 { net.node(out, &[x]) } else { x };
            x = net.node(out, &[c, skip]);
        }
    }
    net.node(4000, &[x]);
    net.0
}

fn transformer(tokens: u64, width: u64, heads: u64, layers: usize) -> Vec<Buffer> {
    let mut net = Net::default();
    let row = tokens * width * 4;
    let mask = net.node(tokens * tokens * 4, &[]);
    let mut x = net.node(row, &[]);
    for _ in 0..layers {
        let norm = net.node(row, &[x]);
        let [q, k, v] = [(); 3].map(|()| net.node(row, &[norm]));
        let scores = net.node(heads * tokens * tokens * 4, &[q, k]);
        let masked = net.node(heads * tokens * tokens * 4, &[scores, mask]);
        let weights = net.node(heads * tokens * tokens * 4, &[masked]);
        let mixed = net.node(row, &[weights, v]);
        let out = net.node(row, &[mixed]);
        x = net.node(row, &[x, out]);
        let norm = net.node(row, &[x]);
        let up = net.node(4 * row, &[norm]);
        let act = net.node(4 * row, &[up]);
        let down = net.node(row, &[act]);
        x = net.node(row, &[x, down]);
    }
    net.0
}

fn unet(side: u64, depth: usize) -> Vec<Buffer> {
    let mut net = Net::default();
    let bytes = |level: usize| (32 << level) * (side >> level) * (side >> level) * 4;
    let mut x = net.node(side * side * 12, &[]);
    let mut skips = Vec::new();
    for level in 0..depth {
        let a = net.node(bytes(level), &[x]);
        let b = net.node(bytes(level), &[a]);
        skips.push(b);
        x = net.node(bytes(level) / 4, &[b]);
    }
    for level in (0..depth).rev() {
        let up = net.node(bytes(level), &[x]);
        let joined = net.node(2 * bytes(level), &[up, skips[level]]);
        let a = net.node(bytes(level), &[joined]);
        x = net.node(bytes(level), &[a]);
    }
    net.0
}

fn densenet() -> Vec<Buffer> {
    let mut net = Net::default();
    let mut x = net.node(64 * 56 * 56 * 4, &[]);
    for (side, layers) in [(56_u64, 6), (28, 12), (14, 24), (7, 16)] {
        let mut channels = 64;
        let mut grown = vec![x];
        for _ in 0..layers {
            let joined = net.node(channels * side * side * 4, &grown);
            let squeezed = net.node(128 * side * side * 4, &[joined]);
            grown.push(net.node(32 * side * side * 4, &[squeezed]));
            channels += 32;
        }
        let joined = net.node(channels * side * side * 4, &grown);
        x = net.node(channels / 2 * side * side, &[joined]);
    }
    net.0
}

fn inception() -> Vec<Buffer> {
    let mut net = Net::default();
    let mut x = net.node(192 * 28 * 28 * 4, &[]);
    for (side, blocks) in [(28_u64, 3), (14, 5), (7, 3)] {
        for block in 0..blocks {
            let node = |channels: u64| channels * side * side * 4;
            let a = net.node(node(64 + 16 * block), &[x]);
            let b = net.node(node(96), &[x]);
            let b = net.node(node(128 + 32 * block), &[b]);
            let c = net.node(node(16 + 8 * block), &[x]);
            let c = net.node(node(32), &[c]);
            let pool = net.node(node(192), &[x]);
            let d = net.node(node(32), &[pool]);
            x = net.node(node(256 + 48 * block), &[a, b, c, d]);
        }
    }
    net.0
}

/// The forward pass is kept for the backward pass, each step of which reads
/// the gradient after it and the activation before it.
fn training() -> Vec<Buffer> {
    let mut net = Net(resnet());
    let forward = net.0.len();
    let mut gradient = net.node(net.0[forward - 1].bytes, &[forward - 1]);
    for i in (0..forward - 1).rev() {
        gradient = net.node(net.0[i].bytes, &[gradient, i]);
    }
    net.0
}

/// A random graph in which each node reads a few of the latest nodes.
fn irregular(seed: u64) -> Vec<Buffer> {
    let mut net = Net::default();
    for (i, draw) in random(400, 1 << 16, 64, seed).iter().enumerate() {
        let reach = [1 + draw.first % 3, 1 + draw.last % 24];
        let inputs: Vec<usize> = reach.iter().filter_map(|&back| i.checked_sub(back)).collect();
        net.node((1 << (draw.bytes % 9)) * 3136 * (1 + draw.bytes / 16), &inputs);
    }
    net.0
}

#[test]
fn traces_of_nets_come_within_two_percent_of_the_bound() {
    let mut nets = vec![
        ("resnet", resnet()),
        ("transformer", transformer(197, 768, 12, 12)),
        ("long transformer", transformer(2048, 1024, 16, 48)),
        ("u-net", unet(512, 5)),
        ("densenet", densenet()),
        ("inception", inception()),
        ("training", training()),
    ];
    nets.extend((0..8).map(|seed| ("irregular", irregular(seed))));
    for (name, net) in nets {
        let greedy = checked_plan(&net, 256, 0);
        let plan = checked_plan(&net, 256, 200_000);
        println!(
            "{name:17} {:4} buffers {:>11} live, greedy {:.4} arena {:.4} {:>6} nodes",
            net.len(),
            plan.max_live,
            greedy.bytes as f64 / plan.max_live as f64,
            plan.bytes as f64 / plan.max_live as f64,
            plan.n_nodes
        );
        assert!(plan.bytes as f64 <= 1.02 * plan.max_live as f64, "{name}");
    }
}

#[test]
fn a_long_chain_meets_the_bound() {
    let plan = checked_plan(&chain(50_000), 64, 1_000_000);
    assert_eq!((plan.bytes, plan.n_nodes), (plan.max_live, 0));
}

#[test]
fn many_buffers_that_all_overlap_are_planned() {
    let plan = checked_plan(&random(50_000, 1 << 20, 1 << 30, 9), 64, 100);
    assert!(plan.bytes < 2 * plan.max_live);
}

#[test]
fn many_buffers_that_start_together_are_planned() {
    let sizes = random(3000, 700, 1 << 20, 11);
    let mut buffers: Vec<_> = sizes.iter().map(|b| buffer(b.bytes, 0, b.last % 40)).collect();
    buffers.extend(sizes.iter().map(|b| buffer(b.bytes, 10 + b.last % 40, 60)));
    let plan = checked_plan(&buffers, 1, 100_000);
    assert!(plan.n_nodes <= 100_000);
}

#[test]
#[ignore = "reports times, which depend on the machine: cargo test --lib report_times -- --ignored --nocapture"]
fn report_times() {
    let cases = [
        ("chain of 50,000", chain(50_000), 0),
        ("2,000 random, greedy", random(2000, 5000, 1 << 20, 1), 0),
        ("2,000 random, 100,000 nodes", random(2000, 5000, 1 << 20, 1), 100_000),
        ("5,000 random, greedy", random(5000, 9000, 1 << 20, 1), 0),
        ("50,000 random, 1,000,000 nodes", random(50_000, 1 << 20, 1 << 20, 1), 1_000_000),
    ];
    for (name, buffers, max_nodes) in cases {
        let start = Instant::now();
        let plan = checked_plan(&buffers, 64, max_nodes);
        let ratio = plan.bytes as f64 / plan.max_live as f64;
        println!("{name:31} {ratio:.4} {:8} nodes {:.3} s", plan.n_nodes, start.elapsed().as_secs_f64());
    }
}

/// Reads `id,lower,upper,size` rows, the upper step being exclusive.
fn read_instance(path: &std::path::Path) -> Vec<Buffer> {
    let text = std::fs::read_to_string(path).expect("the instance is readable");
    let row = |line: &str| {
        let row: Vec<u64> = line.split(',').map(|x| x.trim().parse().expect("a number")).collect();
        buffer(row[3], row[1] as usize, row[2] as usize - 1)
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
#[ignore = "reads what is not here: NYXC_MINIMALLOC=FOLDER cargo test --lib minimalloc -- --ignored --nocapture"]
fn minimalloc_instances_come_within_two_percent_of_the_bound() {
    let folder = std::env::var("NYXC_MINIMALLOC").expect("NYXC_MINIMALLOC names a folder");
    let entries = std::fs::read_dir(folder).expect("the folder is readable");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    println!("| instance | buffers | max live | greedy | arena | ratio | nodes | seconds |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut n_close = 0;
    for path in &paths {
        let buffers = read_instance(path);
        let greedy = checked_plan(&buffers, 64, 0);
        let start = Instant::now();
        let plan = checked_plan(&buffers, 64, 20_000_000);
        let ratio = plan.bytes as f64 / plan.max_live as f64;
        n_close += usize::from(ratio <= 1.02);
        println!(
            "| {} | {} | {} | {} | {} | {ratio:.4} | {} | {:.2} |",
            path.file_stem().unwrap_or_default().display(),
            buffers.len(),
            plan.max_live,
            greedy.bytes,
            plan.bytes,
            plan.n_nodes,
            start.elapsed().as_secs_f64()
        );
    }
    println!("{n_close} of {} within 1.02 of the bound", paths.len());
    assert!(n_close >= 9);
}
