//! What a call of a kernel may be given, in the terms of its template: `build.rs` makes a method of every parameter and
//! flag of `shaders/*.toml`. A name that a template's table does not have, or a value of another type, does not build.

use super::call::{Draft, Rows, most};
use super::{KernelCall, KernelError};
use crate::ir::{Dim, ValueId};
use crate::kernels::key::{Flag, ParamType, Template, constants};
use crate::kernels::variant::Variant;
use std::marker::PhantomData;

include!(concat!(env!("OUT_DIR"), "/kernel_settings.rs"));

/// A template as a type.
pub(super) trait Kernel {
    /// Which it is.
    const TEMPLATE: Template;
}

/// What a name of a table is given.
pub(super) enum Setting {
    Param(ParamType, Dim),
    /// `name0`, `name1` and so on; the flag that counts them follows from their number.
    Params(ParamType, Vec<Dim>),
    Flag(u32),
}

/// A parameter `uint`.
pub(super) struct Uint;
/// A parameter `int`.
pub(super) struct Int;
/// A parameter `float`.
pub(super) struct Float;
/// Parameters `uint`, as many as a flag says.
pub(super) struct Uints;
/// Parameters `int`, as many as a flag says.
pub(super) struct Ints;
/// A flag of 0 and 1.
pub(super) struct Switch;
/// A flag of other numbers, which the table lists.
pub(super) struct Number;

/// What may be given where a table has a `Kind`.
pub(super) trait Give<Kind> {
    /// The same for a call.
    fn give(self) -> Setting;
}

impl<D: Into<Dim>> Give<Uint> for D {
    fn give(self) -> Setting {
        Setting::Param(ParamType::Uint, self.into())
    }
}

impl<D: Into<Dim>> Give<Int> for D {
    fn give(self) -> Setting {
        Setting::Param(ParamType::Int, self.into())
    }
}

impl Give<Float> for f32 {
    fn give(self) -> Setting {
        Setting::Param(ParamType::Float, u64::from(self.to_bits()).into())
    }
}

impl<I: IntoIterator<Item = Dim>> Give<Uints> for I {
    fn give(self) -> Setting {
        Setting::Params(ParamType::Uint, self.into_iter().collect())
    }
}

impl<I: IntoIterator<Item = Dim>> Give<Ints> for I {
    fn give(self) -> Setting {
        Setting::Params(ParamType::Int, self.into_iter().collect())
    }
}

impl Give<Switch> for bool {
    fn give(self) -> Setting {
        Setting::Flag(self.into())
    }
}

impl Give<Number> for u32 {
    fn give(self) -> Setting {
        Setting::Flag(self)
    }
}

/// A call of a template under construction. Operands are given in the order of its table.
pub(super) struct Call<'n, T> {
    draft: Draft<'n>,
    template: PhantomData<T>,
}

impl<'n, T: Kernel> Call<'n, T> {
    pub(super) fn of(draft: Draft<'n>) -> Call<'n, T> {
        Call { draft, template: PhantomData }
    }

    fn map(self, change: impl FnOnce(Draft<'n>) -> Draft<'n>) -> Self {
        Call::of(change(self.draft))
    }

    fn set(self, name: &'static str, flag: Option<Flag>, setting: Setting) -> Self {
        self.map(|draft| draft.set(name, flag, setting))
    }

    /// The next operand of the table, whole.
    pub(super) fn operand(self, value: ValueId) -> Self {
        self.map(|draft| draft.operand(value))
    }

    /// The next operand of the table, of which only some rows are read.
    pub(super) fn operand_rows(self, value: ValueId, rows: Option<Rows>) -> Self {
        self.map(|draft| draft.operand_rows(value, rows))
    }

    /// An optional operand of the table.
    pub(super) fn optional(self, value: Option<ValueId>) -> Self {
        self.map(|draft| draft.optional(value))
    }

    /// Neighbours of the result that an invocation computes at a time; 0 where each is computed by itself. They begin
    /// at multiples of that number.
    pub(super) fn vector(self, width: u32) -> Self
    where
        T: has::Vector,
    {
        self.map(|draft| draft.vector(width))
    }

    /// Neighbours of an operand that an invocation reads at a time, where the result has none.
    pub(super) fn reads_vectors(self, width: u32) -> Self
    where
        T: has::Vector,
    {
        self.set("vector", Some(Flag::Vector), Setting::Flag(width))
    }

    /// Whether its own operands, all given by now, are multiplied as f16: the target does it, and none holds more.
    pub(super) fn half(self) -> Self
    where
        T: has::Half,
    {
        self.map(Draft::half)
    }

    pub(super) fn tile(self, m: u32, n: u32, k: u32) -> Self {
        self.map(|draft| draft.tile(m, n, k))
    }

    pub(super) fn variant(self, variant: Variant) -> Self {
        self.map(|draft| draft.variant(variant))
    }

    /// A loop of the template's text that an invocation comes to `entries` times, and whose body then runs `times`
    /// times.
    pub(super) fn each(self, entries: impl Into<Dim>, times: impl Into<Dim>) -> Self {
        self.map(|draft| draft.each(entries, times))
    }

    /// How many elements an invocation puts, where it is not one: the loops of an epilogue run for each.
    pub(super) fn puts(self, n: impl Into<Dim>) -> Self {
        self.map(|draft| draft.puts(n))
    }

    /// The call of `n` workgroups.
    pub(super) fn workgroups(self, n: impl Into<Dim>) -> Result<KernelCall, KernelError> {
        self.draft.workgroups(n)
    }

    /// The call of as many workgroups as `n` invocations need.
    pub(super) fn invocations(self, n: &Dim) -> Result<KernelCall, KernelError> {
        self.workgroups(n.div_ceil(u64::from(constants::INVOCATIONS)))
    }

    /// The call for `n` elements, each invocation with `width` of them, or one where that is 0.
    pub(super) fn vectors(self, n: &Dim, width: u32) -> Result<KernelCall, KernelError>
    where
        T: has::Vector,
    {
        let per_invocation = u64::from(width.max(1));
        self.vector(width).puts(per_invocation).invocations(&n.div_ceil(per_invocation))
    }
}

/// The two halves of 64 bits, the lower one first.
pub(super) fn halves(bits: u64) -> [u64; 2] {
    [bits & 0xffff_ffff, bits >> 32]
}

/// Turns of a loop up to which each takes one element.
const MAX_ROLLED: u64 = 4096;
/// Elements that a turn of a longer one takes: the flag `unroll`.
const UNROLLED: u32 = 16;

/// The call with the flag `unroll` for loops over `n` elements, and how many turns they have. The order of elements,
/// and so the result, is the same.
pub(super) fn unrolled<'n, T: has::Unroll<Given = Number>>(call: Call<'n, T>, n: &Dim) -> (Call<'n, T>, Dim) {
    let per_turn = if most(n) <= MAX_ROLLED { 1 } else { UNROLLED };
    (call.unroll(per_turn), n.div_ceil(u64::from(per_turn)))
}
