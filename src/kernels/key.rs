//! Which kernel: a template of `shaders/` with everything that its text depends on. Equal keys are the same shader, and
//! one function turns a key into the name that generator and reports use.

use crate::ir::DType;
use crate::ir::packed::{Granularity, Packing};
use crate::kernels::variant::{Family, Variant};
use std::collections::BTreeMap;
use std::fmt;

include!(concat!(env!("OUT_DIR"), "/kernel_templates.rs"));

/// What a template's `.toml` says.
#[derive(Debug)]
pub struct Table {
    /// The stem of the files.
    pub name: &'static str,
    /// The kernel's own operands in order of binding, and whether each may be absent.
    pub operands: &'static [(&'static str, bool)],
    /// Whether it may have an epilogue.
    pub epilogue: bool,
    /// Whether its key has a tile.
    pub tiled: bool,
    /// Of what family its key has a variant, if it has.
    pub variant: Option<Family>,
    /// Whether parameters that are known when it is compiled stand in its text as numbers, so that divisions by them
    /// cost little and loops over them unroll.
    pub literals: bool,
    /// Whether its operands are read as vectors of 16 bytes too.
    pub vectors: bool,
    /// Features that the target must have, by their names in its profile.
    pub needs: &'static [&'static str],
    /// Whether it notes indices out of range: a buffer `faults` follows the result.
    pub faults: bool,
    /// Parameters.
    pub params: &'static [TableParam],
    /// Flags, and the values that each may have.
    pub flags: &'static [(Flag, &'static [u32])],
}

/// A parameter, or a list of them.
#[derive(Debug)]
pub struct TableParam {
    /// Its type.
    pub ty: ParamType,
    /// Its name.
    pub name: &'static str,
    /// The flag that counts how many there are, named `name0`, `name1` and so on; one named `name` where absent.
    pub count: Option<Flag>,
}

/// The type of a parameter. All take 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "GLSL's names")]
pub enum ParamType {
    Uint,
    Int,
    Float,
}

impl ParamType {
    /// Its spelling in GLSL.
    pub fn glsl(self) -> &'static str {
        match self {
            ParamType::Uint => "uint",
            ParamType::Int => "int",
            ParamType::Float => "float",
        }
    }
}

/// The storage layout of a tensor on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// 4 bytes an element; also what bf16 and f64 become.
    F32,
    /// 2 bytes an element, the whole padded to 4.
    F16,
    /// Integers of at most 32 bits but u32, and truth values, 4 bytes an element.
    I32,
    /// u32, 4 bytes an element.
    U32,
    /// i64, 8 bytes an element.
    I64,
    /// u64, 8 bytes an element.
    U64,
    /// Codes and scales.
    Packed(Packing),
}

impl Storage {
    /// Elements of a type that values have on a device; `None` for those that no kernel reads.
    pub fn of(device: DType) -> Option<Storage> {
        let all = [Storage::F32, Storage::F16, Storage::I32, Storage::U32, Storage::I64, Storage::U64];
        all.into_iter().find(|storage| storage.dtype() == Some(device))
    }

    /// The type of its elements; `None` of a packed tensor.
    pub fn dtype(self) -> Option<DType> {
        Some(match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::I32 => DType::I32,
            Storage::U32 => DType::U32,
            Storage::I64 => DType::I64,
            Storage::U64 => DType::U64,
            Storage::Packed(_) => return None,
        })
    }

    /// Bytes of an element; `None` of a packed tensor.
    pub fn element_bytes(self) -> Option<u32> {
        self.dtype().map(|dtype| dtype.bits() / 8)
    }

    /// Whether an element is computed with as an integer of 64 bits.
    pub fn is_wide(self) -> bool {
        matches!(self, Storage::U32 | Storage::I64 | Storage::U64)
    }
}

impl fmt::Display for Storage {
    /// `f32`, `f16`, `i32`, `q4g32f16` (4-bit codes, blocks of 32, f16 scales), `q8cf32` (a scale a row), `q8tf32` (one
    /// scale), `q4g32f16z` (zero points too),
    /// `qn4g32f16`, `q5g32f16`, `q6g32f16` (other codings).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Storage::Packed(packing) => {
                write!(f, "q{}", packing.coding)?;
                match packing.granularity {
                    Granularity::Block(block) => write!(f, "g{block}")?,
                    Granularity::Row => f.write_str("c")?,
                    Granularity::Tensor => f.write_str("t")?,
                }
                f.write_str(if packing.scale.is_f16() { "f16" } else { "f32" })?;
                f.write_str(if packing.scale.has_zeros() { "z" } else { "" })
            }
            element => element.dtype().map_or(Ok(()), |dtype| write!(f, "{dtype}")),
        }
    }
}

/// What a value is inside an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each variant is its own documentation")]
pub enum Value {
    Float,
    /// An integer of 32 signed bits.
    Int,
    /// An integer of 64 bits.
    Wide,
    Bool,
}

/// Which element of an operand of an expression goes with element `i` of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Element `i`.
    Same,
    /// The only one.
    Scalar,
    /// Element `(i / inner) % n`: vectors along one axis.
    Periodic,
    /// Any broadcast, by strides over this many axes (1 to 8).
    Strided(u8),
}

/// The layout of the elements of an operand that go with as many neighbours of the result as a vector has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// Anyhow: each is looked for.
    Each,
    /// They are one element.
    One,
    /// They are neighbours, and the first has a number that the vector's length divides.
    Vector,
}

/// An operand of the kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperandKey {
    /// Its layout.
    pub storage: Storage,
    /// Whether the scales are bound apart, after the codes: where rows of a packed tensor that is larger than a binding
    /// may be are read.
    pub scales_apart: bool,
}

/// An operand of the expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArgKey {
    /// Its layout: not packed.
    pub storage: Storage,
    /// What it is.
    pub value: Value,
    /// How it is indexed.
    pub load: Load,
    /// The layout of a vector of it; `Each` in a kernel without the flag `vector`.
    pub run: Run,
}

/// The expression of a pointwise kernel, or the epilogue of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExprKey {
    /// Its text form, which reads back.
    pub text: String,
    /// What the result of the kernel is before the epilogue, which calls it `x0`; `None` for a pointwise kernel.
    pub own: Option<Value>,
    /// Its operands: `x1` and on after the kernel's own result, `x0` and on in a pointwise kernel.
    pub args: Vec<ArgKey>,
    /// How many float parameters of these names follow its operands.
    pub n_numbers: usize,
}

impl ExprKey {
    /// The number of the first of [`ExprKey::args`].
    pub fn first_arg(&self) -> usize {
        usize::from(self.own.is_some())
    }

    /// The numbers `i` of the parameters `xi`.
    pub fn numbers(&self) -> std::ops::Range<usize> {
        let first = self.first_arg() + self.args.len();
        first..first + self.n_numbers
    }
}

/// Outputs that one workgroup computes, and how much of the reduction axis it holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Rows: a multiple of 8.
    pub m: u32,
    /// Columns: a multiple of 16.
    pub n: u32,
    /// Along the reduction axis.
    pub k: u32,
}

/// Most elements that an invocation holds of a row: loops over them are unrolled.
pub const MOST_HELD: u32 = 128;

impl Template {
    /// Whether it multiplies codes of both operands in integers, word by word.
    pub fn multiplies_codes(self) -> bool {
        matches!(self, Template::MatmulI8 | Template::ConvI8 | Template::ConvNhwcI8)
    }
}

/// Rows of a workgroup, each held by so many lanes: as many as fit (`include/held_row.glsl`).
pub fn rows_of_lanes(lanes: u32) -> u32 {
    (constants::INVOCATIONS / lanes.max(1)).max(1)
}

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelKey {
    /// The template.
    pub template: Template,
    /// The kernel's own operands as the table lists them, `None` where an optional one is absent.
    pub operands: Vec<Option<OperandKey>>,
    /// The expression.
    pub expr: Option<ExprKey>,
    /// The layout of the result.
    pub result: Storage,
    /// Every flag of the table.
    pub flags: BTreeMap<Flag, u32>,
    /// The tile.
    pub tile: Option<Tile>,
    /// How the work is divided.
    pub variant: Option<Variant>,
    /// Parameters that stand in its text as numbers: the bits of each, by name.
    pub literals: BTreeMap<String, u32>,
}

/// One scalar of the uniform block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its type.
    pub ty: ParamType,
    /// Its name.
    pub name: String,
}

impl KernelKey {
    /// The name of the kernel: operation, operands, result, then flags that are not 0, tile, variant and expression:
    /// `matmul_f32_q4g32f16_f32_t32x32`.
    pub fn name(&self) -> String {
        let mut name = self.template.table().name.to_owned();
        for operand in &self.operands {
            match operand {
                Some(key) => name += &format!("_{}{}", key.storage, if key.scales_apart { "s" } else { "" }),
                None => name += "_none",
            }
        }
        for arg in self.expr.iter().flat_map(|e| &e.args) {
            let value = if arg.value == Value::Bool { "b" } else { "" };
            name += &format!("_{}{value}", arg.storage);
            match arg.load {
                Load::Same => {}
                Load::Scalar => name += "s",
                Load::Periodic => name += "p",
                Load::Strided(rank) => name += &format!("r{rank}"),
            }
            match arg.run {
                Run::Each => {}
                Run::One => name += "o",
                Run::Vector => name += "v",
            }
        }
        name += &format!("_{}", self.result);
        for (flag, value) in &self.flags {
            match value {
                0 => {}
                1 => name += &format!("_{}", flag.name().replace('_', "")),
                _ => name += &format!("_{}{value}", flag.name().replace('_', "")),
            }
        }
        if let Some(tile) = self.tile {
            name += &format!("_t{}x{}", tile.m, tile.n);
            if tile.k != 32 {
                name += &format!("x{}", tile.k);
            }
        }
        if let Some(variant) = self.variant {
            name += &format!("_v{variant}");
        }
        if !self.literals.is_empty() {
            name += &format!("_l{}", &blake3::hash(format!("{:?}", self.literals).as_bytes()).to_hex()[..8]);
        }
        if let Some(expr) = &self.expr {
            name += &format!("_e{}", &blake3::hash(format!("{:?} {}", expr.own, expr.text).as_bytes()).to_hex()[..8]);
        }
        name
    }

    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        let of_rows =
            self.flags.get(&Flag::Lanes).map_or(constants::INVOCATIONS, |lanes| lanes * rows_of_lanes(*lanes));
        // A subgroup's size, or its rows of a matrix and invocations of a row.
        let subgroup = self.flag(Flag::Subgroup).max(self.flag(Flag::Side) * self.flag(Flag::Share));
        self.variant.map_or(of_rows, |variant| variant.threads(subgroup))
    }

    /// The value of a flag; 0 for one that the table does not have, which [`KernelKey::fault`] finds.
    pub fn flag(&self, flag: Flag) -> u32 {
        self.flags.get(&flag).copied().unwrap_or(0)
    }

    /// Neighbours of the result that an invocation computes at a time: the flag `vector`, 1 where that is 0; `None`
    /// where the table has none.
    pub fn width(&self) -> Option<u32> {
        self.flags.get(&Flag::Vector).map(|width| (*width).max(1))
    }

    /// The own operands that are present, with their names.
    pub fn present(&self) -> impl Iterator<Item = (&'static str, OperandKey)> + '_ {
        self.template
            .table()
            .operands
            .iter()
            .zip(&self.operands)
            .filter_map(|(&(name, _), key)| key.map(|key| (name, key)))
    }

    /// The layout of everything that it binds: own operands, those of the expression, the result.
    pub fn storages(&self) -> impl Iterator<Item = Storage> + '_ {
        let args = self.expr.iter().flat_map(|e| &e.args).map(|arg| arg.storage);
        self.present().map(|(_, key)| key.storage).chain(args).chain([self.result])
    }

    /// The scalars of the uniform block, in order: all parameters but those that stand in the text.
    pub fn params(&self) -> Vec<Param> {
        let mut params = self.all_params();
        params.retain(|param| !self.literals.contains_key(&param.name));
        params
    }

    /// All parameters: those of the table, then what packed operands and operands of the expression need, then the
    /// expression's numbers.
    pub fn all_params(&self) -> Vec<Param> {
        let mut params = Vec::new();
        for param in self.template.table().params {
            match param.count {
                None => params.push(Param { ty: param.ty, name: param.name.to_owned() }),
                Some(flag) => params
                    .extend((0..self.flag(flag)).map(|i| Param { ty: param.ty, name: format!("{}{i}", param.name) })),
            }
        }
        let mut uint = |name: String| params.push(Param { ty: ParamType::Uint, name });
        for (name, key) in self.present() {
            if let Storage::Packed(packing) = key.storage {
                ["pitch", "blocks", "scales"].iter().for_each(|part| uint(format!("{name}_{part}")));
                if packing.coding.n_planes() > 0 {
                    ["planes", "plane", "plane_pitch"].iter().for_each(|part| uint(format!("{name}_{part}")));
                }
            }
        }
        for (i, arg) in
            self.expr.iter().flat_map(|e| e.args.iter().enumerate().map(move |(i, arg)| (i + e.first_arg(), arg)))
        {
            match arg.load {
                Load::Same | Load::Scalar => {}
                Load::Periodic => ["inner", "n"].iter().for_each(|part| uint(format!("x{i}_{part}"))),
                Load::Strided(rank) => (0..rank).for_each(|axis| {
                    uint(format!("x{i}_d{axis}"));
                    uint(format!("x{i}_s{axis}"));
                }),
            }
        }
        let numbers = self.expr.iter().flat_map(ExprKey::numbers);
        params.extend(numbers.map(|i| Param { ty: ParamType::Float, name: format!("x{i}") }));
        params
    }

    /// How many storage buffers it binds: own operands (scales apart counted), those of the expression, the result, and
    /// what it notes faults or magnitudes in.
    pub fn n_buffers(&self) -> usize {
        let own: usize = self.present().map(|(_, key)| 1 + usize::from(key.scales_apart)).sum();
        own + self.expr.as_ref().map_or(0, |e| e.args.len())
            + 1
            + usize::from(self.template.table().faults)
            + usize::from(self.flag(Flag::Notes) == 1)
    }

    /// What contradicts the table, if anything does: then the key is a bug of ours.
    pub fn fault(&self) -> Option<String> {
        let table = self.template.table();
        if self.operands.len() != table.operands.len() {
            return Some(format!("{} operands, the table has {}", self.operands.len(), table.operands.len()));
        }
        if let Some((_, (name, _))) =
            self.operands.iter().zip(table.operands).find(|(key, (_, optional))| key.is_none() && !optional)
        {
            return Some(format!("operand {name} is absent"));
        }
        if let Some(flag) = self.flags.keys().find(|flag| !table.flags.iter().any(|(name, _)| name == *flag)) {
            return Some(format!("flag {} is not in the table", flag.name()));
        }
        for (flag, values) in table.flags {
            match self.flags.get(flag) {
                None => return Some(format!("flag {} is missing", flag.name())),
                Some(value) if !values.contains(value) => {
                    return Some(format!("flag {} is {value}, not one of {values:?}", flag.name()));
                }
                Some(_) => {}
            }
        }
        if table.tiled != self.tile.is_some() {
            return Some("a tile where the table has none, or none where it has one".to_owned());
        }
        if table.variant != self.variant.map(Variant::family) || !self.variant.is_none_or(Variant::is_sound) {
            return Some(
                "a variant where the table has none, none where it has one, or one that is not sound".to_owned(),
            );
        }
        let all = self.all_params();
        let is_param = |name: &String| all.iter().any(|param| param.name == *name && param.ty != ParamType::Float);
        if let Some(name) = self.literals.keys().find(|name| !table.literals || !is_param(name)) {
            return Some(format!("{name} as a number in the text, which the table does not allow"));
        }
        let held = self.flags.get(&Flag::Held).map_or(0, |held| held * self.width().unwrap_or(1));
        if self.threads() > 1024 || held > MOST_HELD {
            return Some(format!("{} invocations, or {held} elements held by one", self.threads()));
        }
        if self.flag(Flag::Notes) == 1 && self.result != Storage::F32 {
            return Some(format!("magnitudes noted of {}", self.result));
        }
        if self.expr.is_some() && !table.epilogue {
            return Some("an epilogue where the table allows none".to_owned());
        }
        None
    }
}

impl fmt::Display for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
