//! Vectors: as many neighbours as a kernel's width says, read and written in words of up to 16 bytes.
//!
//! For an operand `a`: `void lds_a(uint i, out T_a v[WIDTH])` reads elements `i` on, where WIDTH divides `i`. For the
//! result: `void sts_y(uint i, T_y v[WIDTH])`. Both give the bits that `ld_a` and `st_y` give for each element.

use crate::kernels::key::{Flag, KernelKey, Storage};
use crate::targets::Target;
use std::fmt::Write as _;

/// How vectors of a storage are seen in a buffer.
struct View {
    /// The type of what one instruction moves.
    part: &'static str,
    /// How many of these a vector has.
    n_parts: u32,
    /// Words, or halves, of one.
    per_part: u32,
    halves: Halves,
}

/// What f16 is in a buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Halves {
    /// It is not f16.
    None,
    /// Words that are two f16 by the device's own types.
    Words,
    /// Vectors of f16: the device stores them, and does nothing else with them.
    Vectors,
    /// Words that functions on integers and f32 take apart.
    Emulated,
}

impl View {
    fn of(storage: Storage, width: u32, target: &Target) -> Option<View> {
        let f = &target.features;
        let halves = match storage {
            Storage::F16 if f.storage_16bit && f.f16_arithmetic => Halves::Words,
            Storage::F16 if f.storage_16bit => Halves::Vectors,
            Storage::F16 => Halves::Emulated,
            _ => Halves::None,
        };
        if halves == Halves::Vectors {
            let per_part = width.min(4);
            let part = if per_part == 2 { "f16vec2" } else { "f16vec4" };
            return Some(View { part, n_parts: width / per_part, per_part, halves });
        }
        let words = storage.element_bytes()? * width / 4;
        let per_part = words.min(4);
        let part = match per_part {
            1 => "uint",
            2 => "uvec2",
            _ => "uvec4",
        };
        Some(View { part, n_parts: words / per_part, per_part, halves })
    }

    /// Word, or f16, number `n` of a vector whose parts are `r[0]` and on.
    fn word(&self, n: u32) -> String {
        let part = n / self.per_part;
        if self.per_part == 1 {
            format!("r[{part}]")
        } else {
            format!("r[{part}].{}", ["x", "y", "z", "w"][(n % self.per_part) as usize])
        }
    }

    /// Element `e` of a vector that was read.
    fn element(&self, storage: Storage, e: u32) -> String {
        match (storage, self.halves) {
            (_, Halves::Words) => {
                format!("float(unpackFloat2x16({}).{})", self.word(e / 2), ["x", "y"][(e % 2) as usize])
            }
            (_, Halves::Emulated) => format!("unpackHalf2x16({}).{}", self.word(e / 2), ["x", "y"][(e % 2) as usize]),
            // Converted where it was read.
            (_, Halves::Vectors) => self.word(e),
            (Storage::F32, _) => format!("uintBitsToFloat({})", self.word(e)),
            (Storage::U32, _) => format!("w_words(uvec2({}, 0u))", self.word(e)),
            (Storage::I64 | Storage::U64, _) => {
                format!("w_words(uvec2({}, {}))", self.word(2 * e), self.word(2 * e + 1))
            }
            _ => format!("int({})", self.word(e)),
        }
    }

    /// Part `part` of a vector `v` to be written.
    fn stored(&self, storage: Storage, part: u32) -> String {
        let element = |e: u32| format!("v[{e}]");
        let word = |n: u32| match (storage, self.halves) {
            (_, Halves::Words) => {
                let half = |e: u32| format!("float16_t(saturate({}))", element(e));
                format!("packFloat2x16(f16vec2({}, {}))", half(2 * n), half(2 * n + 1))
            }
            (_, Halves::Emulated) => {
                format!("half_word({}) | (half_word({}) << 16)", element(2 * n), element(2 * n + 1))
            }
            (_, Halves::Vectors) => format!("saturate({})", element(n)),
            (Storage::F32, _) => format!("floatBitsToUint({})", element(n)),
            (Storage::U32, _) => format!("w_bits({}).x", element(n)),
            (Storage::I64 | Storage::U64, _) => format!("w_bits({}).{}", element(n / 2), ["x", "y"][(n % 2) as usize]),
            _ => format!("uint({})", element(n)),
        };
        let words: Vec<String> = (part * self.per_part..(part + 1) * self.per_part).map(word).collect();
        match self.halves {
            // Of f16 there are no numbers, so that vectors are converted whole.
            Halves::Vectors => format!("{}({}({}))", self.part, self.read_as(), words.join(", ")),
            _ if self.per_part == 1 => words.concat(),
            _ => format!("{}({})", self.part, words.join(", ")),
        }
    }

    /// The type of a part that was read.
    fn read_as(&self) -> &'static str {
        match (self.halves, self.per_part) {
            (Halves::Vectors, 2) => "vec2",
            (Halves::Vectors, _) => "vec4",
            _ => self.part,
        }
    }
}

/// What of a key is read or written as vectors: names, storages and bindings. A template that sees its own operands as
/// words of 16 bytes takes these apart itself.
fn seen(key: &KernelKey) -> Vec<(String, Storage, u32)> {
    let mut all = Vec::new();
    let mut binding = 0;
    for (name, operand) in key.present() {
        // Some templates have views of their own of these.
        if !key.template.table().vectors {
            all.push((name.to_owned(), operand.storage, binding));
        }
        binding += 1 + u32::from(operand.scales_apart);
    }
    for (i, arg) in
        key.expr.iter().flat_map(|e| e.args.iter().enumerate().map(move |(i, arg)| (i + e.first_arg(), arg)))
    {
        all.push((format!("x{i}"), arg.storage, binding));
        binding += 1;
    }
    all.push(("y".to_owned(), key.result, binding));
    all
}

/// Whether words of two f16 are taken apart by the device's own types.
pub(super) fn needs_f16(key: &KernelKey, target: &Target) -> bool {
    let words = |storage| View::of(storage, 2, target).is_some_and(|view| view.halves == Halves::Words);
    key.width().is_some_and(|width| width > 1) && key.storages().any(words)
}

/// Views of the buffers, and the functions that read and write vectors; nothing for a kernel without width.
pub(super) fn functions(key: &KernelKey, target: &Target) -> String {
    let mut text = String::new();
    let Some(width) = key.width() else { return text };
    for (name, storage, binding) in seen(key) {
        let is_result = name == "y";
        let Some(view) = Some(width).filter(|n| *n > 1).and_then(|width| View::of(storage, width, target)) else {
            if storage.element_bytes().is_some() {
                text += &if is_result {
                    "void sts_y(uint i, T_y v[WIDTH]) { st_y(i, v[0]); }\n".to_owned()
                } else {
                    format!("void lds_{name}(uint i, out T_{name} v[WIDTH]) {{ v[0] = ld_{name}(i); }}\n")
                };
            }
            continue;
        };
        let (part, n_parts, access) = (view.part, view.n_parts, if is_result { "" } else { "readonly " });
        // The same bytes as the view of single elements; a kernel writes through one of both.
        let _ = writeln!(
            text,
            "layout(set = 0, binding = {binding}, std430) {access}buffer V_{name} {{ {part} v_{name}[]; }};"
        );
        let at = |n: u32| match n_parts {
            1 => "i / WIDTH".to_owned(),
            _ => format!("i / WIDTH * {n_parts}u + {n}u"),
        };
        if is_result {
            let stores: String =
                (0..n_parts).map(|n| format!("    v_y[{}] = {};\n", at(n), view.stored(storage, n))).collect();
            let notes: String = match key.flag(Flag::Notes) {
                0 => String::new(),
                _ => (0..width).map(|e| format!("    note(v[{e}]);\n")).collect(),
            };
            let _ = writeln!(text, "void sts_y(uint i, T_y v[WIDTH]) {{\n{stores}{notes}}}");
        } else {
            let reads: String =
                (0..n_parts).map(|n| format!("    r[{n}] = {}(v_{name}[{}]);\n", view.read_as(), at(n))).collect();
            let elements: String =
                (0..width).map(|e| format!("    v[{e}] = {};\n", view.element(storage, e))).collect();
            let _ = writeln!(
                text,
                "void lds_{name}(uint i, out T_{name} v[WIDTH]) {{\n    {} r[{n_parts}];\n{reads}{elements}}}",
                view.read_as()
            );
        }
    }
    text
}
