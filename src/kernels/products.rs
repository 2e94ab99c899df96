//! The ways to compute a product: the plain kernels, `gemv` variants where rows are few, variants on cooperative
//! matrices. Another kernel is another part of [`Ways::ways`].

use super::buckets::Bucket;
use super::call::Node;
use super::choice::{Problem, Way};
use super::matmul::{Columns, Product};
use super::mma::Operands;
use super::model::{Arithmetic, Work};
use super::{gemv, mma, storage, thin};
use crate::ir::packed::Granularity;
use crate::kernels::key::{Storage, Template};
use crate::kernels::variant::{Gemv, Mma, Thin, Variant};
use crate::targets::tuning::Case;

/// Most rows of a for which reading b once matters more than reading a often.
pub(super) const MAX_VECTOR_ROWS: i64 = 8;
/// Most rows of a for which its elements are read by each workgroup anew.
const MAX_THIN_ROWS: i64 = 256;
/// What sizes that change are taken to be: never by their ranges, so that a program for one size and a program for a
/// range compute alike.
const COLUMNS: i64 = 2048;
const BATCHES: i64 = 8;

/// A product whose number of rows is of one bucket.
pub(super) struct Ways<'a> {
    node: &'a Node<'a>,
    a: Storage,
    b: Storage,
    trans_b: bool,
    bucket: Bucket,
    /// The kernel for few rows.
    few: Option<Template>,
    matrices: Option<Operands>,
    /// Whether matrices can be filled from memory.
    is_thin: bool,
    n: u64,
    k: u64,
    batch: Option<u64>,
}

fn positive(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0).max(1)
}

/// Bytes of `n` elements, scales included.
pub(super) fn bytes_of(storage: Storage, n: u64) -> u64 {
    let Storage::Packed(packing) = storage else {
        return n.saturating_mul(storage.element_bytes().unwrap_or(4).into());
    };
    let scales = match packing.granularity {
        Granularity::Block(block) => n / u64::from(block.max(1)) * packing.scale.n_bytes(),
        Granularity::Row | Granularity::Tensor => 0,
    };
    (n.saturating_mul(packing.coding.bits().into()) / 8).saturating_add(scales)
}

impl<'a> Ways<'a> {
    /// `None` where the reduction axis changes between runs: then there is one way.
    pub(super) fn of(
        node: &'a Node<'a>,
        product: &Product,
        columns: &Columns,
        trans_b: bool,
        bucket: Bucket,
    ) -> Option<Ways<'a>> {
        let (_, a) = node.operand(0).ok()?;
        let (a, b, k) = (storage(a)?, storage(node.graph.ty(columns.b))?, product.k.known().filter(|k| *k > 0)?);
        let is_batched = !product.batches.is_empty();
        let batch = product.batches.iter().try_fold(1i64, |n, (size, _)| n.checked_mul(size.known()?));
        Some(Ways {
            node,
            a,
            b,
            trans_b,
            bucket,
            few: gemv::template(node, (a, b), k, trans_b && !is_batched).filter(|_| bucket.most <= MAX_VECTOR_ROWS),
            matrices: Operands::of(node, (a, b), trans_b, (k, columns.n.known())),
            is_thin: trans_b && !is_batched && bucket.most <= MAX_THIN_ROWS && thin::is_possible(node, (a, b), k),
            n: positive(columns.n.known().unwrap_or(COLUMNS)),
            k: positive(k),
            batch: is_batched.then(|| positive(batch.unwrap_or(BATCHES))),
        })
    }

    /// The kernel for few rows.
    pub(super) fn few(&self) -> Option<Template> {
        self.few
    }

    /// What cooperative matrices multiply.
    pub(super) fn matrices(&self) -> Option<Operands> {
        self.matrices
    }

    /// The most rows that a variant for few must have room for: sums of two rows and of eight are added up alike.
    fn most_rows(&self) -> u32 {
        if self.bucket.most == 1 { 1 } else { MAX_VECTOR_ROWS as u32 }
    }

    fn is_integer(&self) -> bool {
        matches!(self.a, Storage::Packed(_))
    }

    /// Bytes and workgroups of a kernel that has a workgroup for `tile` rows and columns.
    fn tiles(&self, [n, k]: [u64; 2], batch: u64, tile: [u64; 2]) -> Work {
        let m = self.bucket.typical;
        let groups = batch * m.div_ceil(tile[0]) * n.div_ceil(tile[1]);
        let result = crate::kernels::storage(self.node.result).unwrap_or(Storage::F32);
        let [a, b, y] = [bytes_of(self.a, m * k), bytes_of(self.b, n * k), bytes_of(result, m * n)];
        let read = bytes_of(self.a, tile[0] * k) + bytes_of(self.b, tile[1] * k);
        Work {
            bytes: batch * (a + b + y),
            read: groups.saturating_mul(read),
            operations: groups.saturating_mul(2 * tile[0] * tile[1]).saturating_mul(k),
            arithmetic: Arithmetic::F32,
            groups,
            threads: 128,
            shared: 0,
            registers: 64,
            steps: 1,
            step_ns: 450,
            end_ns: 0,
        }
    }

    fn gemv(&self, v: Gemv, sizes: [u64; 2]) -> Work {
        let split = u64::from(v.lanes * v.ways);
        let tile = [self.bucket.typical, u64::from(v.group_columns()).max(1)];
        let per_step = if matches!(self.b, Storage::Packed(_)) { 32 } else { 8 };
        // Loads of several columns are under way at a time.
        let steps = sizes[1].div_ceil(per_step * split).div_ceil(2);
        let work = self.tiles(sizes, 1, tile);
        Work { threads: v.threads.into(), shared: u64::from(v.steps) * 112 * tile[0], steps, ..work }
    }

    fn mma(&self, v: Mma, sizes: [u64; 2], batch: u64) -> Work {
        let work = self.tiles(sizes, batch, [v.m.into(), v.n.into()]);
        let (products, arithmetic) = match (self.a, self.b) {
            (Storage::Packed(_), _) => (1, Arithmetic::I8),
            (Storage::F32, Storage::F32) => (3, Arithmetic::F16),
            (Storage::F32, _) => (2, Arithmetic::F16),
            _ => (1, Arithmetic::F16),
        };
        let threads = Variant::Mma(v).threads(self.node.target.limits.subgroup_size).into();
        Work {
            operations: work.operations.saturating_mul(products),
            arithmetic,
            threads,
            shared: self.matrices.map_or(0, |operands| operands.shared_bytes(v)).into(),
            steps: sizes[1].div_ceil(u64::from(v.k) * u64::from(v.ways)),
            ..mma::work(v, threads, work)
        }
    }

    fn thin(&self, v: Thin, sizes: [u64; 2]) -> Work {
        let work = self.tiles(sizes, 1, [v.m.into(), v.n.into()]);
        let (threads, shared) = (Variant::Thin(v).threads(32).into(), thin::shared_bytes(v).into());
        Work {
            arithmetic: Arithmetic::F16,
            threads,
            shared,
            steps: thin::steps(v, sizes[1]),
            ..thin::work(v, self.b, work)
        }
    }
}

impl Problem for Ways<'_> {
    fn case(&self) -> Case {
        let result = storage(self.node.result).map_or(String::new(), |s| s.to_string());
        let form = match (self.trans_b, self.batch) {
            (true, None) => "t",
            (false, None) => "n",
            (true, Some(_)) => "bt",
            (false, Some(_)) => "bn",
        };
        let (a, b, epilogue, rows) = (self.a, self.b, self.node.epilogue_class(), self.bucket.name());
        let kind = format!("matmul {a} {b} {result} {form} {epilogue} {rows}");
        Case { kind, sizes: [self.n, self.k].into_iter().chain(self.batch).collect() }
    }

    fn ways(&self) -> Vec<Way> {
        let all = gemv::variants(self.b).into_iter().chain(mma::variants()).chain(thin::variants()).map(Way::Variant);
        [Way::Plain].into_iter().chain(all.filter(|way| self.suits(*way))).collect()
    }

    fn suits(&self, way: Way) -> bool {
        let target = self.node.target;
        match way {
            Way::Plain => true,
            Way::Variant(Variant::Gemv(v)) => {
                self.few.is_some_and(|template| gemv::suits(template, v, self.most_rows(), target))
            }
            Way::Variant(Variant::Mma(v)) => {
                self.matrices.is_some_and(|operands| operands.suits(v, &self.k.into(), target))
            }
            Way::Variant(Variant::Thin(v)) => self.is_thin && thin::suits(v, self.k, target),
            Way::Variant(Variant::Attention(_)) => false,
        }
    }

    fn work(&self, way: Way, sizes: &[u64]) -> Work {
        let [n, k] = [0, 1].map(|i| sizes.get(i).copied().unwrap_or(1));
        let batch = sizes.get(2).copied().unwrap_or(1);
        match way {
            Way::Variant(Variant::Gemv(v)) => self.gemv(v, [n, k]),
            Way::Variant(Variant::Mma(v)) => self.mma(v, [n, k], batch),
            Way::Variant(Variant::Thin(v)) => self.thin(v, [n, k]),
            Way::Plain | Way::Variant(Variant::Attention(_))
                if self.bucket.most <= MAX_VECTOR_ROWS && !self.is_integer() =>
            {
                let tile = if self.trans_b { 8 } else { 32 };
                let work = self.tiles([n, k], batch, [self.bucket.typical, tile]);
                Work { steps: k.div_ceil(if self.trans_b { 16 } else { 4 }), ..work }
            }
            Way::Plain | Way::Variant(Variant::Attention(_)) => {
                Work { shared: 8 << 10, steps: k.div_ceil(16), ..self.tiles([n, k], batch, [64, 64]) }
            }
        }
    }

    fn usual(&self) -> Way {
        // A CPU, as lavapipe has it, takes the invocations of a workgroup in turn, and is faster with the plain ones.
        if self.node.target.is_cpu() {
            return Way::Plain;
        }
        let few: Vec<Gemv> = self.few.map_or(Vec::new(), |template| {
            let rows = u32::try_from(self.bucket.typical).unwrap_or(u32::MAX);
            gemv::preferred(template, self.b, (self.n, self.k), rows)
        });
        let is_few = self.bucket.most <= MAX_VECTOR_ROWS && !self.is_integer();
        let many = self.matrices.filter(|_| !is_few).map_or(Vec::new(), |operands| {
            operands.preferred([self.bucket.typical, self.n, self.batch.unwrap_or(1)], self.k, self.bucket.most)
        });
        let all = few.into_iter().map(Variant::Gemv).chain(many.into_iter().map(Variant::Mma)).map(Way::Variant);
        all.into_iter().find(|way| self.suits(*way)).unwrap_or(Way::Plain)
    }
}
