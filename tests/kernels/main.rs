//! Every kernel against the CPU reference of its operator, on whatever Vulkan devices are here: as they are, and as if
//! they had no optional feature at all.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]
#![allow(missing_docs, reason = "no interface of others")]

mod attention;
mod case;
#[path = "../common/child.rs"]
mod child;
mod elementwise;
mod execute;
mod integers;
mod loops;
mod maths;
mod matmul;
mod matrices;
#[path = "../common/module.rs"]
mod module;
mod movement;
mod rows;
mod windows;

pub use case::{Case, by_candidates, compare, magnitude, plan, variants};
pub use execute::{run, run_calls};

use nyxc::ir::packed::{Coding, Granularity, Packing, pack_with_zeros};
use nyxc::ir::{Attrs, DType, Dim, Expr, OpDef, Shape, Tensor, TensorType};
use nyxc::kernels::{self, KernelError, Resource};
use nyxc::ops::core::quantize_packed;
use nyxc::runtime::{Options, VkContext, devices, validation_errors};
use nyxc::targets::{Features, Target};
use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

const NO_FEATURES: Features = Features {
    f16_arithmetic: false,
    int8_arithmetic: false,
    storage_16bit: false,
    storage_8bit: false,
    integer_dot_product: false,
    integer_dot_product_accelerated: false,
    cooperative_matrix: false,
    matrix_shapes: Vec::new(),
    subgroup_arithmetic: false,
};

/// A device, and the targets that kernels are compiled for on it.
pub struct Bench {
    context: VkContext,
    targets: Vec<Target>,
    /// What was wrong so far.
    faults: Rc<RefCell<Vec<String>>>,
}

impl Bench {
    /// The same for one other target.
    pub fn with(&self, target: Target) -> Bench {
        Bench { context: self.context.clone(), targets: vec![target], faults: self.faults.clone() }
    }
}

impl Bench {
    /// The same, and the device's own target as if its subgroups were wide: rows are then held by several of them.
    pub fn with_wide(&self) -> Bench {
        let mut target = Target { name: "wide".to_owned(), ..self.targets[0].clone() };
        target.limits.subgroup_size = target.limits.subgroup_size.max(32);
        Bench { targets: [&self.targets[..], &[target]].concat(), ..self.with(self.targets[0].clone()) }
    }
}

/// Runs `test` on every device; fails with all that was wrong there.
pub fn on_devices(test: impl Fn(&Bench)) {
    let found = devices().unwrap_or_default();
    if found.is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    for info in found {
        // Layers older than a driver's extensions see errors where there are none: `NYXC_VALIDATION=0` leaves them out.
        let validation = std::env::var("NYXC_VALIDATION").as_deref() != Ok("0");
        let options = Options { validation, cache_dir: None, fault: None, ..Options::from_env() };
        let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
        let plain = Target { name: "plain".to_owned(), features: NO_FEATURES, ..info.target.clone() };
        let bench = Bench { context, targets: vec![info.target.clone(), plain], faults: Rc::default() };
        test(&bench);
        let faults = bench.faults.take();
        assert!(faults.is_empty(), "on {}, {} faults:\n{}", info.name, faults.len(), faults.join("\n"));
        // Layers may say what they found as late as at the end of the device.
        drop(bench);
        assert_eq!(validation_errors(), 0, "on {}", info.name);
    }
}

/// Numbers from -1 to 1, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.unit()).collect();
        Tensor::from_f32s(dtype, dims, &values).unwrap()
    }

    /// Integers from `low` to `high`, both included.
    pub fn ints(&mut self, dtype: DType, dims: &[usize], low: i64, high: i64) -> Tensor {
        let mut one = || low + ((self.unit() * 0.5 + 0.5) * (high - low + 1) as f32) as i64;
        let values: Vec<i64> = (0..dims.iter().product()).map(|_| one().min(high)).collect();
        Tensor::from_i64s(dtype, dims, &values).unwrap()
    }

    /// Random codes and scales; the last of `dims` is the reduction axis.
    pub fn packed(&mut self, packing: Packing, dims: &[usize]) -> Tensor {
        let cols = *dims.last().unwrap();
        let rows = dims.iter().product::<usize>() / cols;
        let most = packing.coding.largest().min(127.0);
        let all: Vec<i8> = (-127..=127).filter(|code| packing.coding.has(*code)).collect();
        let mut code = || all[(((self.unit() * 0.5 + 0.5) * all.len() as f32) as usize).min(all.len() - 1)];
        let codes: Vec<i8> = (0..rows * cols).map(|_| code()).collect();
        let n_scales = packing.n_scales(rows as u64, cols as u64).unwrap();
        let scales: Vec<f32> =
            (0..n_scales).map(|_| packing.scale.storable(self.unit() / most, packing.coding)).collect();
        let ty = TensorType { dtype: packing.codes(), shape: Shape::of(dims), packing: Some(packing) };
        let n_zeros = if packing.scale.has_zeros() { n_scales } else { 0 };
        let zeros: Vec<i16> = (0..n_zeros).map(|_| (self.unit() * most) as i16).collect();
        Tensor::from_bytes(ty, pack_with_zeros(packing, rows, cols, &codes, &scales, &zeros).unwrap()).unwrap()
    }
}

/// Some kernels again in a child process, on the same devices as if they had no more than every Vulkan device has.
/// `scripts/device_matrix.sh` runs all, under more masks, and sets `NYXC_MASK` for that.
#[test]
fn kernels_run_on_a_device_masked_to_the_least_that_vulkan_allows() {
    if std::env::var_os("NYXC_MASK").is_some() {
        return;
    }
    let output = child::itself()
        .args(["matmul::packed_weights", "matmul::epilogues", "rows::", "--test-threads=2"])
        .env("NYXC_MASK", "vulkan-min")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.matches("... ok").count() > 5, "{text}");
}

/// The packings that integer products read.
pub fn packings_without_zeros() -> Vec<Packing> {
    packings().into_iter().filter(|packing| !packing.scale.has_zeros()).collect()
}

/// The formats that weights are packed in.
pub fn packings() -> Vec<Packing> {
    use nyxc::ir::packed::{Coding, Granularity::*, ScaleType::*};
    let all = [
        (Coding::I4, Block(32), F16),
        (Coding::I4, Block(16), F32),
        (Coding::I4, Row, F16),
        (Coding::I8, Block(64), F16),
        (Coding::I8, Row, F32),
        (Coding::I8, Tensor, F16),
        (Coding::I4, Block(256), F16),
        (Coding::N4, Block(32), F16),
        (Coding::I5, Block(64), F16),
        (Coding::I6, Block(32), F16),
        (Coding::N4, Row, F32),
        (Coding::I5, Tensor, F16),
        (Coding::I6, Block(16), F32),
    ];
    let with_zeros = [
        (Coding::I4, Block(32), F16Zero),
        (Coding::I4, Block(16), F32Zero),
        (Coding::I8, Row, F32Zero),
        (Coding::I8, Block(64), F16Zero),
        (Coding::I8, Tensor, F16Zero),
        (Coding::I6, Block(32), F16Zero),
        (Coding::N4, Block(128), F32Zero),
    ];
    let all = [&all[..], &with_zeros].concat();
    all.into_iter().map(|(coding, granularity, scale)| Packing { coding, granularity, scale }).collect()
}
