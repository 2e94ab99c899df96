//! What a kernel takes of a device, and how long that takes by a model of bytes, operations, waves of workgroups and
//! launches, in whole nanoseconds. It ranks the variants that `nyxc tune` tries, and carries measured times to sizes
//! nearby. Its constants were fitted to 3,000 times of an H200 (`benches/gpu/tune-h200.txt`): there the variant that it
//! ranks first takes 1.02 times as long as the best in the median, 1.6 at worst.

use crate::targets::Target;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// f32, by fused multiply-adds.
    F32,
    /// f16 on matrix units.
    F16,
    /// INT8 on matrix units.
    I8,
}

/// What one dispatch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Bytes read and written in memory, each once.
    pub(super) bytes: u64,
    /// Bytes that all workgroups read, from caches too.
    pub(super) read: u64,
    /// Multiplications and additions of all workgroups, padding included.
    pub(super) operations: u64,
    /// With what.
    pub(super) arithmetic: Arithmetic,
    /// Workgroups.
    pub(super) groups: u64,
    /// Invocations of one.
    pub(super) threads: u64,
    /// Bytes of shared memory of one.
    pub(super) shared: u64,
    /// Registers of 32 bits of an invocation, about.
    pub(super) registers: u64,
    /// Steps of one that wait for memory, one after the other.
    pub(super) steps: u64,
    /// What a step takes, in nanoseconds, and what comes after the last for 256 invocations.
    pub(super) step_ns: u64,
    pub(super) end_ns: u64,
}

/// From one dispatch that depends on another to the next, with its first loads and last stores.
const LAUNCH_NS: u64 = 4_660;
/// Registers and bytes of shared memory of all workgroups that one unit holds at a time.
const UNIT_REGISTERS: u64 = 70_000;
const UNIT_SHARED: u64 = 52_800;
/// Invocations that keep a unit busy.
const BUSY_THREADS: u64 = 400;
/// How many times as fast as memory caches are, and as products of large matrices units compute, in tenths.
const CACHES: u64 = 85;
const COMPUTED: u64 = 3;

/// Rates of a device, per second.
struct Rates {
    bytes: u64,
    operations: u64,
    units: u64,
}

impl Rates {
    /// Those of a target, or of a small device where nobody measured.
    fn of(target: &Target, arithmetic: Arithmetic) -> Rates {
        let Some(rates) = &target.rates else {
            return Rates { bytes: 200_000_000_000, operations: 5_000_000_000_000, units: 32 };
        };
        let operations = match arithmetic {
            Arithmetic::F32 => rates.f32_flops,
            Arithmetic::F16 => rates.f16_flops,
            Arithmetic::I8 => rates.i8_ops,
        };
        Rates { bytes: rates.copy_bytes_per_s as u64, operations: operations as u64, units: rates.compute_units.into() }
    }
}

/// Nanoseconds for `n` at `rate` a second.
fn ns(n: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

impl Work {
    /// How long it takes.
    pub(super) fn ns(&self, target: &Target) -> u64 {
        let rates = Rates::of(target, self.arithmetic);
        let units = rates.units.max(1);
        let groups = self.groups.max(1);
        let by_shared = UNIT_SHARED / self.shared.max(1);
        let by_registers = UNIT_REGISTERS / self.registers.saturating_mul(self.threads).max(1);
        let resident = by_registers.min(by_shared).clamp(1, 8);
        // The unit that has most workgroups is the last.
        let of_unit = groups.div_ceil(units);
        let waves = of_unit.div_ceil(resident);
        let busy = (of_unit.min(resident) * self.threads).clamp(32, BUSY_THREADS);
        // Too few invocations leave a unit waiting.
        let share = |n: u64| n.saturating_mul(of_unit).saturating_mul(units) / groups;
        let operations = ns(share(self.operations), rates.operations / COMPUTED).saturating_mul(BUSY_THREADS) / busy;
        let read = ns(share(self.read), rates.bytes.saturating_mul(CACHES) / 10);
        let memory = ns(self.bytes, rates.bytes);
        let of_wave = self.steps.saturating_mul(self.step_ns) + self.end_ns * self.threads / 256;
        let waits = waves.saturating_mul(of_wave);
        // Half of what is computed and read from caches hides behind the rest.
        LAUNCH_NS.saturating_add(memory.max(waits)).saturating_add(operations.saturating_add(read) / 2)
    }
}
