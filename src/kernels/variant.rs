//! Variants of a kernel: how the same product is divided among workgroups, subgroups and invocations.

use std::fmt;
use std::str::FromStr;

/// What kind of division a template knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// [`Gemv`].
    Gemv,
    /// [`Mma`].
    Mma,
    /// [`Thin`].
    Thin,
    /// [`Attention`].
    Attention,
}

/// How the work of a kernel is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each has what its name says")]
pub enum Variant {
    Gemv(Gemv),
    Mma(Mma),
    Thin(Thin),
    Attention(Attention),
}

/// How a product of few rows is divided among the threads of a workgroup. Sums are added up in an order that `lanes`
/// and `ways` decide, whatever the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gemv {
    /// Invocations of a workgroup: a multiple of `lanes * ways`.
    pub threads: u32,
    /// Neighbouring threads that read one row of the weights side by side.
    pub lanes: u32,
    /// How many such neighbours share the reduction axis of a row.
    pub ways: u32,
    /// Columns of the result that a thread computes.
    pub columns: u32,
    /// Steps of 32 along the reduction axis that shared memory holds of each row of the first operand; 0 where it is
    /// read from memory.
    pub steps: u32,
}

/// How a product on cooperative matrices is divided: tiles among workgroups, parts of a tile among subgroups. Sums are
/// added up in an order that `k` and `ways` decide, whatever the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mma {
    /// Rows of a workgroup's tile.
    pub m: u32,
    /// Columns of a workgroup's tile.
    pub n: u32,
    /// How much of the reduction axis shared memory holds at a time, for each of `ways`.
    pub k: u32,
    /// Rows of a subgroup's part.
    pub warp_m: u32,
    /// Columns of a subgroup's part.
    pub warp_n: u32,
    /// How many sets of subgroups share the reduction axis.
    pub ways: u32,
}

/// How a product on cooperative matrices is divided whose operands do not pass through shared memory. Sums are added up
/// in an order that `ways` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thin {
    /// Rows of a workgroup's tile.
    pub m: u32,
    /// Columns of a workgroup's tile.
    pub n: u32,
    /// Subgroups of a workgroup, which share the reduction axis.
    pub ways: u32,
}

/// How an attention on cooperative matrices is divided: a subgroup has as many queries as a matrix has rows. Sums are
/// added up in an order that `ways` and `keys` decide, whatever the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attention {
    /// Subgroups with queries of their own, which read the same keys.
    pub strips: u32,
    /// Subgroups with the same queries, which take blocks of keys in turn; 1 where there are several strips.
    pub ways: u32,
    /// Keys of a block.
    pub keys: u32,
}

impl Variant {
    /// What kind it is.
    pub fn family(self) -> Family {
        match self {
            Variant::Gemv(_) => Family::Gemv,
            Variant::Mma(_) => Family::Mma,
            Variant::Thin(_) => Family::Thin,
            Variant::Attention(_) => Family::Attention,
        }
    }

    /// Invocations of a workgroup on a device whose subgroups have so many.
    pub fn threads(self, subgroup: u32) -> u32 {
        match self {
            Variant::Gemv(v) => v.threads,
            Variant::Mma(v) => v.subgroups().saturating_mul(subgroup),
            Variant::Thin(v) => v.ways.saturating_mul(subgroup),
            Variant::Attention(v) => v.strips.saturating_mul(v.ways).saturating_mul(subgroup),
        }
    }

    /// Whether the parts fit together.
    pub fn is_sound(self) -> bool {
        match self {
            Variant::Gemv(v) => v.is_sound(),
            Variant::Mma(v) => v.is_sound(),
            Variant::Thin(v) => v.is_sound(),
            Variant::Attention(v) => v.is_sound(),
        }
    }

    /// Names and values of the constants that the template's text refers to.
    pub fn constants(self) -> Vec<(&'static str, String)> {
        let uints = |list: &[(&'static str, u32)]| list.iter().map(|&(name, n)| (name, format!("{n}u"))).collect();
        match self {
            Variant::Gemv(Gemv { threads, lanes, ways, columns, steps }) => {
                let mut list: Vec<_> = uints(&[
                    ("THREADS", threads),
                    ("LANES", lanes),
                    ("WAYS", ways),
                    ("COLUMNS", columns),
                    ("STEPS", steps),
                ]);
                // For the preprocessor, which knows no suffix of GLSL.
                list.push(("WAYS_OF_K", ways.to_string()));
                list
            }
            Variant::Mma(Mma { m, n, k, warp_m, warp_n, ways }) => {
                let mut list: Vec<_> = uints(&[
                    ("TILE_M", m),
                    ("TILE_N", n),
                    ("TILE_K", k),
                    ("WARP_M", warp_m),
                    ("WARP_N", warp_n),
                    ("WAYS", ways),
                ]);
                list.push(("WAYS_OF_K", ways.to_string()));
                list.push(("ROWS_OF_WARP", warp_m.to_string()));
                list
            }
            Variant::Thin(v) => uints(&[("TILE_M", v.m), ("TILE_N", v.n), ("WAYS", v.ways), ("SLOTS", v.slots())]),
            Variant::Attention(Attention { strips, ways, keys }) => {
                let mut list: Vec<_> = uints(&[("STRIPS", strips), ("WAYS", ways), ("KEYS", keys)]);
                list.push(("WAYS_OF_K", ways.to_string()));
                list
            }
        }
    }
}

impl Gemv {
    /// Columns of the result that a workgroup computes.
    pub fn group_columns(self) -> u32 {
        self.threads / (self.lanes * self.ways).max(1) * self.columns
    }

    fn is_sound(self) -> bool {
        let split = self.lanes.saturating_mul(self.ways);
        let within = |n: u32, most: u32| (1..=most).contains(&n);
        within(self.threads, 1024)
            && within(split, self.threads)
            && within(self.columns, 8)
            && self.steps <= 4096
            && self.threads.is_multiple_of(split)
    }
}

impl Mma {
    /// Subgroups of a workgroup.
    pub fn subgroups(self) -> u32 {
        (self.m / self.warp_m.max(1)) * (self.n / self.warp_n.max(1)) * self.ways
    }

    fn is_sound(self) -> bool {
        let within = |n: u32, most: u32| (8..=most).contains(&n) && n.is_power_of_two();
        let tile = |n: u32, part: u32| (8..=256).contains(&n) && within(part, 128) && n.is_multiple_of(part);
        tile(self.m, self.warp_m)
            && tile(self.n, self.warp_n)
            && within(self.k, 256)
            && (1..=16).contains(&self.ways)
            && self.subgroups() <= 32
    }
}

/// Vectors of 16 bytes up to which the sums of all subgroups of a [`Thin`] are in shared memory together.
const SUMS: u32 = 2560;

impl Thin {
    /// How many subgroups' sums shared memory holds: of all, or of half of them, to which the others' are added before.
    pub fn slots(self) -> u32 {
        if self.ways * self.sums() <= SUMS { self.ways } else { self.ways / 2 }
    }

    /// Vectors of 16 bytes of the sums of a subgroup.
    pub fn sums(self) -> u32 {
        self.m * (self.n / 4 + 1)
    }

    fn is_sound(self) -> bool {
        let side = |n: u32| n.is_power_of_two() && (16..=64).contains(&n);
        let is_halved = || self.slots() == self.ways || self.ways.is_multiple_of(2);
        side(self.m) && side(self.n) && (1..=16).contains(&self.ways) && is_halved()
    }
}

/// How the name of a [`Thin`] begins.
const THIN: &str = "thin_";

impl Attention {
    fn is_sound(self) -> bool {
        let alone = self.strips == 1 || self.ways == 1;
        let within = |n: u32| (1..=16).contains(&n);
        alone && within(self.strips) && within(self.ways) && matches!(self.keys, 16 | 32 | 64)
    }
}

impl fmt::Display for Variant {
    /// `256x16x8x4x128`: threads, lanes, ways, columns, steps; `128x128x64_64x32_1`: tile, part of a subgroup, ways;
    /// `thin_32x64_8`: tile, ways; `4x1x32`: strips, ways, keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Gemv(Gemv { threads, lanes, ways, columns, steps }) => {
                write!(f, "{threads}x{lanes}x{ways}x{columns}x{steps}")
            }
            Variant::Mma(Mma { m, n, k, warp_m, warp_n, ways }) => write!(f, "{m}x{n}x{k}_{warp_m}x{warp_n}_{ways}"),
            Variant::Thin(Thin { m, n, ways }) => write!(f, "{THIN}{m}x{n}_{ways}"),
            Variant::Attention(Attention { strips, ways, keys }) => write!(f, "{strips}x{ways}x{keys}"),
        }
    }
}

impl FromStr for Variant {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Variant, Self::Err> {
        let (is_thin, list) = text.strip_prefix(THIN).map_or((false, text), |list| (true, list));
        let numbers: Option<Vec<u32>> = list.split(['x', '_']).map(|n| n.parse().ok()).collect();
        let variant = match (is_thin, numbers.as_deref()) {
            (false, Some(&[threads, lanes, ways, columns, steps])) => {
                Some(Variant::Gemv(Gemv { threads, lanes, ways, columns, steps }))
            }
            (false, Some(&[m, n, k, warp_m, warp_n, ways])) => {
                Some(Variant::Mma(Mma { m, n, k, warp_m, warp_n, ways }))
            }
            (true, Some(&[m, n, ways])) => Some(Variant::Thin(Thin { m, n, ways })),
            (false, Some(&[strips, ways, keys])) => Some(Variant::Attention(Attention { strips, ways, keys })),
            _ => None,
        };
        variant.filter(|v| v.is_sound() && v.to_string() == text).ok_or(
            "a variant is threads, lanes, ways, columns and steps, such as 256x16x8x4x128, a tile, a subgroup's part of \
             it and ways, such as 128x128x64_64x32_1, a tile and ways, such as thin_32x64_8, or strips, ways and keys \
             of an attention, such as 4x1x32, that fit together",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_read_back_and_what_does_not_fit_together_is_refused() {
        for text in [
            "256x16x8x4x128",
            "128x32x4x4x0",
            "128x128x64_64x32_1",
            "32x32x32_16x32_8",
            "thin_32x64_8",
            "4x1x32",
            "1x8x16",
        ] {
            assert_eq!(text.parse::<Variant>().map(|v| v.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "256x16x8x4",
            "256x16x8x4x128x1x1",
            "100x16x8x4x128",
            "256_16_8_4_128",
            "128x128x64_48x32_1",
            "128x128x60_64x32_1",
            "128x128x64_64x32_0",
            "thin_32x64",
            "thin_8x64_8",
            "thin_32x64_7",
            "thin_32x64_17",
            "32x64_8",
            "4x2x32",
            "4x1x24",
            "0x1x32",
            "256x256x64_16x16_1",
            "4294967295x4294967295x64_64x32_1",
        ] {
            assert!(text.parse::<Variant>().is_err(), "{text}");
        }
    }
}
