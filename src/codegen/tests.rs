//! Every variant of every template compiles for every shipped target, and asks for no more than the target has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]

use super::spirv::capability;
use super::*;
use crate::ir::packed::{Coding, Granularity, Packing, ScaleType};
use crate::ir::{Binary, Expr, Unary};
use crate::kernels::key::{ArgKey, ExprKey, Flag, Load, OperandKey, ParamType, Run, Storage, Tile, Value};
use crate::kernels::variant::{Family, Variant};
use crate::program::spirv::{Interface, SpirvError};
use crate::targets::{MatrixTypes, shipped_names};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK_4: Packing = Packing { coding: Coding::I4, granularity: Granularity::Block(32), scale: ScaleType::F16 };

/// Packings that may be an operand: every scale of codes that are integers as they lie, one block each, and of the
/// other codings, whose scales are read by the same text, with a block and with a zero point a row.
fn packings() -> Vec<Storage> {
    let granularities = [Granularity::Block(32), Granularity::Row, Granularity::Tensor];
    let scales = [ScaleType::F16, ScaleType::F32, ScaleType::F16Zero, ScaleType::F32Zero];
    let all = granularities.into_iter().flat_map(|granularity| scales.map(|scale| (granularity, scale)));
    let some = [(Granularity::Block(32), ScaleType::F16), (Granularity::Row, ScaleType::F32Zero)];
    let of = |coding: Coding| -> Vec<_> {
        if matches!(coding, Coding::I4 | Coding::I8) { all.clone().collect() } else { some.to_vec() }
    };
    let packed = |coding| {
        of(coding).into_iter().map(move |(granularity, scale)| Storage::Packed(Packing { coding, granularity, scale }))
    };
    Coding::ALL.into_iter().flat_map(packed).collect()
}

/// The layouts that an operand of a template may have.
fn storages(template: Template, operand: &str) -> Vec<Storage> {
    let floats = vec![Storage::F32, Storage::F16];
    let activations = vec![Granularity::Row, Granularity::Tensor]
        .into_iter()
        .map(|g| Storage::Packed(Packing::activation(g)))
        .collect();
    match (template, operand) {
        (Template::MatmulI8, "a") => activations,
        (Template::ConvI8 | Template::ConvNhwcI8, "x") => {
            vec![Storage::Packed(Packing::activation(Granularity::Tensor))]
        }
        // Integer products know no zero points.
        (Template::MatmulI8 | Template::ConvI8 | Template::ConvNhwcI8, _) => packings()
            .into_iter()
            .filter(|s| matches!(s, Storage::Packed(packing) if !packing.scale.has_zeros()))
            .collect(),
        (Template::ConvDepthwise | Template::ConvDepthwiseNhwc, "x") => {
            [floats, vec![Storage::Packed(Packing::activation(Granularity::Tensor))]].concat()
        }
        (Template::Matmul | Template::Matvec, "b")
        | (Template::Conv | Template::ConvDepthwise | Template::ConvNhwc | Template::ConvDepthwiseNhwc, "w") => {
            [floats, packings()].concat()
        }
        (Template::GemvDot, "b") => packings(),
        (Template::MatmulThin | Template::ConvThin, "a") => vec![Storage::F16],
        (Template::MatmulThin | Template::ConvThin, "b") => [vec![Storage::F16], packings()].concat(),
        (Template::ConvMma, "b") => [vec![Storage::F16], packings()].concat(),
        (Template::Gather, "data") => [floats, INTEGERS.to_vec(), packings()].concat(),
        (Template::Gather | Template::CheckIndices, _) | (Template::StoreRows, "at") => INTEGERS.to_vec(),
        (Template::Attention | Template::AttentionFew | Template::AttentionMma, "mask") => {
            [floats, vec![Storage::I32]].concat()
        }
        (_, "lengths" | "most") => vec![Storage::I32],
        (Template::AttentionMma, _) => vec![Storage::F16],
        (Template::Reduce | Template::Strided | Template::Concat | Template::StoreRows, _) => {
            [floats, INTEGERS.to_vec()].concat()
        }
        _ => floats,
    }
}

const INTEGERS: [Storage; 4] = [Storage::I32, Storage::U32, Storage::I64, Storage::U64];

/// A key of a template with everything at its first choice.
fn plainest(template: Template) -> KernelKey {
    let table = template.table();
    let operand = |name: &str| Some(OperandKey { storage: storages(template, name)[0], scales_apart: false });
    let expr = ExprKey { text: "add(x0,x1)".to_owned(), own: None, args: vec![arg(Load::Same); 2], n_numbers: 0 };
    KernelKey {
        template,
        operands: table.operands.iter().map(|(name, _)| operand(name)).collect(),
        expr: (template == Template::Pointwise).then_some(expr),
        result: if template == Template::QuantizePacked {
            Storage::Packed(Packing::activation(Granularity::Row))
        } else if matches!(template, Template::CheckIndices | Template::Magnitude) {
            Storage::I32
        } else {
            Storage::F32
        },
        flags: table.flags.iter().map(|(flag, values)| (*flag, values[0])).collect(),
        tile: table.tiled.then_some(Tile { m: 32, n: 32, k: 32 }),
        variant: variants(table.variant).first().copied(),
        literals: if table.literals { literals(template) } else { BTreeMap::new() },
    }
}

/// Numbers for what loops and arrays of a template need to know, all of a small window.
fn literals(template: Template) -> BTreeMap<String, u32> {
    let known = ["kh", "kw", "sh", "sw", "pt", "pl", "dh", "dw"];
    let params = template.table().params.iter().filter(|param| known.contains(&param.name));
    params.map(|param| (param.name.to_owned(), 2)).collect()
}

/// Variants of a family, a plain one first.
fn variants(family: Option<Family>) -> Vec<Variant> {
    let texts: &[&str] = match family {
        None => &[],
        Some(Family::Gemv) => &["128x16x2x2x8", "256x16x8x4x128", "352x16x22x4x344", "512x32x16x1x64", "128x8x16x8x16"],
        Some(Family::Thin) => &["thin_32x64_8", "thin_16x16_16", "thin_16x32_9"],
        Some(Family::Mma) => {
            &["32x32x32_16x16_1", "128x128x64_64x32_1", "64x32x32_32x32_4", "16x16x64_16x16_8", "128x64x64_128x16_1"]
        }
        Some(Family::Attention) => &["4x1x32", "1x4x32", "1x8x16", "8x1x32", "4x1x64", "1x4x16"],
    };
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn arg(load: Load) -> ArgKey {
    ArgKey { storage: Storage::F32, value: Value::Float, load, run: Run::Each }
}

/// Most keys that differ in their flags alone.
const MOST_COMBINATIONS: usize = 256;

/// Every combination of flags; where these are too many, every value of each flag with all others at their first, at a
/// third and at their middle.
fn combinations(plain: &KernelKey) -> Vec<KernelKey> {
    let flags = plain.template.table().flags;
    let mut keys = vec![plain.clone()];
    if flags.iter().map(|(_, values)| values.len()).product::<usize>() > MOST_COMBINATIONS {
        keys = [0, 1, 2]
            .map(|part| {
                let of = |values: &[u32]| values[(values.len() - 1) * part / 4];
                KernelKey { flags: flags.iter().map(|(flag, values)| (*flag, of(values))).collect(), ..plain.clone() }
            })
            .into();
    }
    let product = keys.len() == 1;
    let mut all = keys.clone();
    for (flag, values) in flags {
        let of = |key: &KernelKey| -> Vec<KernelKey> {
            values.iter().map(|v| KernelKey { flags: with(&key.flags, *flag, *v), ..key.clone() }).collect()
        };
        if product {
            all = all.iter().flat_map(of).collect();
        } else {
            all.extend(keys.iter().flat_map(of).filter(|key| key.fault().is_none()));
        }
    }
    all
}

/// Keys of every width of a template that has some, with every storage and run of an operand of the expression.
fn of_vectors(plain: &KernelKey) -> Vec<KernelKey> {
    let table = plain.template.table();
    let Some((_, widths)) = table.flags.iter().find(|(flag, _)| *flag == Flag::Vector).filter(|_| table.epilogue)
    else {
        return Vec::new();
    };
    let own = (plain.template != Template::Pointwise).then_some(Value::Float);
    let mut keys = Vec::new();
    for (width, storage) in widths.iter().flat_map(|width| [(*width, Storage::F32), (*width, Storage::F16)]) {
        for run in [Run::Each, Run::One, Run::Vector] {
            let args = vec![ArgKey { storage, run, ..arg(Load::Strided(2)) }, arg(Load::Scalar)];
            let expr = ExprKey { text: "max(x0,x1)".to_owned(), own, args, n_numbers: 0 };
            keys.push(KernelKey {
                expr: Some(expr),
                result: storage,
                flags: with(&plain.flags, Flag::Vector, width),
                ..plain.clone()
            });
        }
    }
    if plain.template == Template::Pointwise {
        for (width, storage) in widths.iter().flat_map(|width| INTEGERS.map(|storage| (*width, storage))) {
            let value = if storage == Storage::I32 { Value::Int } else { Value::Wide };
            let args = vec![ArgKey { storage, value, run: Run::Vector, ..arg(Load::Same) }; 2];
            let expr = ExprKey { text: "add(x0,x1)".to_owned(), own: None, args, n_numbers: 0 };
            let flags = with(&plain.flags, Flag::Vector, width);
            keys.push(KernelKey { expr: Some(expr), result: storage, flags, ..plain.clone() });
        }
    }
    keys
}

/// Keys that differ from the plainest in all flags, in every storage, in every epilogue.
fn keys(template: Template) -> Vec<KernelKey> {
    let plain = plainest(template);
    if template.table().variant == Some(Family::Mma) {
        return matrix_keys(&plain);
    }
    let mut keys = combinations(&plain);
    for (at, (name, optional)) in template.table().operands.iter().enumerate() {
        for storage in storages(template, name) {
            for last in template.table().flags.iter().map(Some).chain([None]) {
                let mut key = plain.clone();
                key.operands[at] = Some(OperandKey { storage, scales_apart: false });
                if let Some((flag, values)) = last {
                    key.flags.insert(*flag, values[values.len() - 1]);
                }
                if INTEGERS.contains(&storage) && !["at", "indices", "mask", "lengths", "most"].contains(name) {
                    key.result = storage;
                }
                keys.push(key.clone());
                if matches!(storage, Storage::Packed(_))
                    && matches!(
                        template,
                        Template::Matmul | Template::Matvec | Template::GemvDot | Template::MatmulI8 | Template::Gather
                    )
                {
                    key.operands[at] = Some(OperandKey { storage, scales_apart: true });
                    keys.push(key);
                }
            }
        }
        if *optional {
            let mut key = plain.clone();
            key.operands[at] = None;
            keys.push(key);
        }
    }
    let divided = variants(template.table().variant).into_iter();
    keys.extend(divided.map(|v| KernelKey { variant: Some(v), ..plain.clone() }));
    if template.table().tiled {
        let large: Vec<_> =
            keys.iter().map(|key| KernelKey { tile: Some(Tile { m: 64, n: 64, k: 16 }), ..key.clone() }).collect();
        keys.extend(large);
    }
    if template.table().literals {
        let all = template.table().params.iter().filter(|param| param.ty == ParamType::Uint);
        keys.push(KernelKey { literals: all.map(|param| (param.name.to_owned(), 4)).collect(), ..plain.clone() });
    }
    keys.extend(of_vectors(&plain));
    if template == Template::CheckIndices {
        let at = ArgKey { storage: Storage::I32, value: Value::Int, ..arg(Load::Strided(2)) };
        let text = "add(mul(x0,7),x1)".to_owned();
        let expr = ExprKey { text, own: Some(Value::Int), args: vec![at], n_numbers: 0 };
        keys.push(KernelKey { expr: Some(expr), ..plain });
        return keys;
    }
    if !matches!(plain.result, Storage::Packed(_)) && template != Template::Magnitude {
        keys.push(KernelKey { result: Storage::F16, ..plain.clone() });
    }
    if template.table().epilogue {
        let own = (template != Template::Pointwise).then_some(Value::Float);
        let text = if own.is_some() { "relu(add(mul(x0,x1),add(x2,x3)))" } else { "relu(add(mul(x0,x1),x2))" };
        let args =
            vec![arg(Load::Scalar), ArgKey { storage: Storage::F16, ..arg(Load::Periodic) }, arg(Load::Strided(3))];
        let expr = ExprKey { text: text.to_owned(), own, args, n_numbers: 0 };
        keys.push(KernelKey { expr: Some(expr), ..plain });
    }
    keys
}

/// Keys of a kernel on cooperative matrices, as the planner may make them for an H200: `plan/kernels/mma.rs`.
fn matrix_keys(plain: &KernelKey) -> Vec<KernelKey> {
    let packed = |coding, granularity, scale| Storage::Packed(Packing { coding, granularity, scale });
    let (block, row) = (Granularity::Block(32), Granularity::Row);
    let codes = Storage::Packed(Packing::activation(row));
    // Operands, then terms after which sums move, and the length of a product of codes.
    let forms = [
        (Storage::F16, Storage::F16, 0, 16),
        (Storage::F16, packed(Coding::I4, block, ScaleType::F16), 0, 16),
        (Storage::F16, packed(Coding::I4, Granularity::Block(64), ScaleType::F16Zero), 0, 16),
        (Storage::F16, packed(Coding::I8, row, ScaleType::F32Zero), 0, 16),
        (Storage::F32, Storage::F32, 32, 16),
        (Storage::F32, Storage::F16, 32, 16),
        (Storage::F32, packed(Coding::I4, block, ScaleType::F16Zero), 32, 16),
        (Storage::F32, packed(Coding::I8, row, ScaleType::F32), 32, 16),
        (codes, packed(Coding::I8, block, ScaleType::F16), 32, 32),
        (codes, packed(Coding::I8, row, ScaleType::F32), 0, 32),
        (codes, packed(Coding::I4, block, ScaleType::F16), 32, 32),
        (Storage::F16, packed(Coding::N4, block, ScaleType::F16), 0, 16),
        (Storage::F32, packed(Coding::I5, block, ScaleType::F16), 32, 16),
        (codes, packed(Coding::I6, row, ScaleType::F16Zero), 0, 32),
        (codes, packed(Coding::N4, block, ScaleType::F32), 32, 32),
    ];
    let mut keys = Vec::new();
    for (a, b, flush_k, frag_k) in forms {
        for text in ["32x32x32_16x16_1", "128x128x32_64x32_1", "64x32x32_32x32_2", "16x16x32_16x16_8"] {
            for (trans_b, whole, batch_rank) in [(1, 1, 0), (1, 0, 0), (1, 0, 1), (0, 1, 1), (0, 0, 0)] {
                let turns = plain.flags.contains_key(&Flag::TransB);
                if !turns && (trans_b, batch_rank) != (1, 0) || trans_b == 0 && (a, b) != (Storage::F16, Storage::F16) {
                    continue;
                }
                let mut key = plain.clone();
                for (at, storage) in [a, b].into_iter().enumerate() {
                    key.operands[at] = Some(OperandKey { storage, scales_apart: false });
                }
                for (flag, value) in [
                    (Flag::TransB, trans_b),
                    (Flag::Whole, whole),
                    (Flag::BatchRank, batch_rank),
                    (Flag::FlushK, flush_k),
                    (Flag::FragM, 16),
                    (Flag::FragN, 16),
                    (Flag::FragK, frag_k),
                    (Flag::Subgroup, 32),
                ] {
                    if key.flags.contains_key(&flag) {
                        key.flags.insert(flag, value);
                    }
                }
                key.variant = Some(text.parse().unwrap());
                if let Some(most) = key.operands.get_mut(2).and_then(Option::take) {
                    keys.push(KernelKey { flags: with(&key.flags, Flag::Notes, 1), ..key.clone() });
                    // Codes that are made of floats as these are loaded.
                    for storage in [Storage::F32, Storage::F16].into_iter().filter(|_| a == codes) {
                        let mut key = key.clone();
                        (key.operands[0], key.operands[2]) = (Some(OperandKey { storage, ..most }), Some(most));
                        keys.push(key);
                    }
                }
                keys.push(KernelKey { result: Storage::F16, ..key.clone() });
                keys.push(KernelKey {
                    flags: with(&with(&key.flags, Flag::Vector, 4), Flag::Turns, 1 + whole),
                    ..key.clone()
                });
                keys.push(key);
            }
        }
    }
    keys
}

fn with(flags: &BTreeMap<Flag, u32>, flag: Flag, value: u32) -> BTreeMap<Flag, u32> {
    flags.iter().map(|(k, v)| (*k, *v)).chain([(flag, value)]).collect()
}

/// Capabilities that a target has besides Shader.
fn allowed(target: &Target) -> BTreeSet<u32> {
    let f = &target.features;
    [
        (capability::SHADER, true),
        (capability::FLOAT16, f.f16_arithmetic),
        (capability::INT8, f.int8_arithmetic),
        (capability::STORAGE_BUFFER_16BIT_ACCESS, f.storage_16bit),
        (capability::STORAGE_BUFFER_8BIT_ACCESS, f.storage_8bit),
        (capability::DOT_PRODUCT, f.integer_dot_product),
        (capability::DOT_PRODUCT_INPUT_4X8_BIT_PACKED, f.integer_dot_product),
        (capability::GROUP_NON_UNIFORM, f.subgroup_arithmetic || f.cooperative_matrix),
        (capability::GROUP_NON_UNIFORM_ARITHMETIC, f.subgroup_arithmetic),
        (capability::GROUP_NON_UNIFORM_SHUFFLE, f.cooperative_matrix),
        (capability::VULKAN_MEMORY_MODEL, f.cooperative_matrix),
        (capability::COOPERATIVE_MATRIX, f.cooperative_matrix),
    ]
    .into_iter()
    .filter_map(|(number, has)| has.then_some(number))
    .collect()
}

/// Compiles on all targets; equal texts once. Gives how many there were.
fn compile_everywhere(keys: &[KernelKey]) -> usize {
    let targets: Vec<Target> = shipped_names().into_iter().map(|name| Target::shipped(name).unwrap()).collect();
    let mut done: BTreeMap<String, Interface> = BTreeMap::new();
    for key in keys {
        // Half precision, matrices, wide work groups and what a table needs are for some targets only.
        let has = |target: &&Target| {
            let needs = key.template.table().needs.iter();
            // Variants are chosen by what a target has: `src/kernels/gemv.rs`.
            let roomy = target.limits.max_compute_work_group_invocations >= 1024
                && target.limits.max_compute_shared_memory_size >= 49152;
            let side = target.features.matrix_shape(MatrixTypes::F16).map_or(0, |shape| shape.m);
            (key.flag(Flag::Half) == 0 || target.features.f16_arithmetic)
                && (key.flag(Flag::Side) == 0 || key.flag(Flag::Side) == side)
                && (key.threads() <= 128 || roomy)
                && needs.fold(true, |all, name| all & target.features.named(name).unwrap())
        };
        for target in targets.iter().filter(has) {
            let text = glsl(key, target).unwrap();
            let read = || Interface::read(&compile(key, target).unwrap_or_else(|e| panic!("{e}")).spirv).unwrap();
            let asks = done.entry(text).or_insert_with(read);
            // Only kernels on cooperative matrices, whose keys have the size of a subgroup, depend on it.
            let allowed = allowed(target);
            match asks.granted(&target.features) {
                // The planner takes a shape that the target has.
                Err(SpirvError::Matrix { .. }) if key.flags.contains_key(&Flag::Side) => continue,
                granted => granted.unwrap_or_else(|e| panic!("{key} on {}: {e}", target.name)),
            }
            let extra: Vec<_> = asks.capabilities.difference(&allowed).collect();
            assert!(extra.is_empty() && !asks.capabilities.is_empty(), "{key} on {} declares {extra:?}", target.name);
            let (l, size) = (&target.limits, asks.local_size.unwrap());
            assert!(
                size.iter().product::<u32>() <= l.max_compute_work_group_invocations,
                "{key} on {}: {size:?} invocations",
                target.name
            );
            assert!(
                size.iter().zip(&l.max_compute_work_group_size).all(|(n, most)| n <= most),
                "{key} on {}: {size:?}",
                target.name
            );
            let shared = asks.shared_bytes;
            assert!(
                shared <= u64::from(l.max_compute_shared_memory_size),
                "{key} on {}: {shared} bytes of shared memory",
                target.name
            );
        }
    }
    done.len()
}

#[test]
fn every_variant_compiles_within_every_target() {
    let mut names: BTreeMap<String, KernelKey> = BTreeMap::new();
    for &template in Template::ALL {
        let keys = keys(template);
        for key in &keys {
            let other = names.insert(key.name(), key.clone());
            assert!(other.is_none_or(|other| other == *key), "{key} names two kernels");
        }
        let n = compile_everywhere(&keys);
        println!("{}: {} keys, {n} shaders", template.table().name, keys.len());
    }
}

#[test]
fn every_function_of_expressions_compiles() {
    let mut keys = Vec::new();
    let mut add = |text: String, storage: Storage, value: Value, result: Storage| {
        let args = vec![ArgKey { storage, value, ..arg(Load::Same) }; 2];
        keys.push(KernelKey {
            expr: Some(ExprKey { text, own: None, args, n_numbers: 0 }),
            result,
            ..plainest(Template::Pointwise)
        });
    };
    use crate::ir::Class;
    let operands = [
        (Storage::F32, Value::Float, Class::Float),
        (Storage::I32, Value::Int, Class::Int),
        (Storage::U32, Value::Wide, Class::Int),
        (Storage::I64, Value::Wide, Class::Int),
        (Storage::I32, Value::Bool, Class::Bool),
    ];
    for (storage, value, class) in operands {
        let unary = Unary::ALL.iter().map(|f| Expr::unary(*f, Expr::Arg(0)));
        let binary = Binary::ALL.iter().map(|f| Expr::binary(*f, Expr::Arg(0), Expr::Arg(1)));
        for expr in unary.chain(binary) {
            match expr.class(&[class, class]) {
                Ok(Class::Float) => add(expr.to_string(), storage, value, Storage::F32),
                Ok(Class::Int) => INTEGERS.iter().for_each(|result| add(expr.to_string(), storage, value, *result)),
                Ok(_) => add(expr.to_string(), storage, value, Storage::I32),
                Err(_) => {}
            }
        }
    }
    add("select(lt(x0,-0.5),pow(x1,2.0),add(NaN,-inf))".to_owned(), Storage::F32, Value::Float, Storage::F32);
    assert!(compile_everywhere(&keys) > 80);
}

#[test]
fn a_key_that_contradicts_its_table_is_refused() {
    let target = Target::shipped("vulkan-min").unwrap();
    let mut key = plainest(Template::Reduce);
    key.flags.insert(Flag::Kind, 7);
    assert_eq!(
        compile(&key, &target).unwrap_err().to_string(),
        format!("kernel {key}: flag kind is 7, not one of [0, 1, 2, 3, 4]")
    );
    let mut key = plainest(Template::Concat);
    key.flags.insert(Flag::Kind, 1);
    assert!(compile(&key, &target).unwrap_err().to_string().ends_with("flag kind is not in the table"));
    let mut key = plainest(Template::Conv);
    key.flags.insert(Flag::Half, 1);
    assert!(compile(&key, &target).unwrap_err().to_string().ends_with("it multiplies f16, which vulkan-min does not"));
}

#[test]
fn names_read_operation_operands_result() {
    let mut key = plainest(Template::Matmul);
    key.operands[1] = Some(OperandKey { storage: Storage::Packed(BLOCK_4), scales_apart: false });
    key.flags.insert(Flag::TransB, 1);
    assert_eq!(key.name(), "matmul_f32_q4g32f16_f32_transb_t32x32");
}

fn snapshot(name: &str, key: &KernelKey, target: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/codegen"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = glsl(key, &Target::shipped(target).unwrap()).unwrap();
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn texts_of_three_small_kernels() {
    let gelu = ExprKey {
        text: "mul(mul(x0,x1),add(erf(mul(x0,x2)),x3))".to_owned(),
        own: None,
        args: vec![ArgKey { storage: Storage::F16, ..arg(Load::Same) }],
        n_numbers: 3,
    };
    let pointwise = KernelKey { expr: Some(gelu), result: Storage::F16, ..plainest(Template::Pointwise) };
    snapshot("pointwise_gelu_f16_native", &pointwise, "lavapipe");
    snapshot("pointwise_gelu_f16_emulated", &pointwise, "vulkan-min");
    let mut gather = plainest(Template::Gather);
    gather.operands[0] = Some(OperandKey { storage: Storage::Packed(BLOCK_4), scales_apart: false });
    snapshot("gather_q4", &gather, "vulkan-min");
}
