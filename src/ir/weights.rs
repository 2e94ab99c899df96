//! Which operand of an operator holds weights, and the matrix that they form: one row an output, the reduction axis
//! along the columns.

use super::{Attrs, Op};

/// The layout of a weight matrix within the axes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatrixLayout {
    /// `[rows, cols]` as it is.
    Rows,
    /// `[cols, rows]`: the right-hand side of a MatMul.
    Columns,
    /// `[rows, ...]`, all other axes being columns: the filters of a convolution.
    Filters,
    /// `[rows, kh, kw, channels]`: the same with channels last.
    FiltersLast,
}

impl MatrixLayout {
    /// Whether the columns are windows of an image.
    pub fn is_filters(self) -> bool {
        matches!(self, MatrixLayout::Filters | MatrixLayout::FiltersLast)
    }

    /// Rows, columns, and whether columns come first, of a matrix with this layout in a tensor of these sizes; `None`
    /// where it is none.
    pub fn matrix(self, dims: &[usize]) -> Option<(usize, usize, bool)> {
        match (self, dims) {
            (MatrixLayout::Rows, &[rows, cols]) => Some((rows, cols, false)),
            (MatrixLayout::Columns, &[cols, rows]) => Some((rows, cols, true)),
            (MatrixLayout::Filters | MatrixLayout::FiltersLast, [rows, rest @ ..]) if rest.len() >= 2 => {
                Some((*rows, rest.iter().product(), false))
            }
            _ => None,
        }
    }
}

/// The operand of an operator that holds weights: what [`OpDef::weights`](super::OpDef::weights) says of a use. It is
/// kept as narrow as the model has it, and where it is a constant matrix, it can be quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOperand {
    /// Which operand.
    pub slot: usize,
    /// The layout of its rows and columns; `None` where it is no matrix of them, as a table that is read along another
    /// axis than its first.
    pub layout: Option<MatrixLayout>,
    /// Whether columns are multiplied with operand 0, which can then be quantized too; else rows are looked up.
    pub is_product: bool,
    /// Whether each row is read by itself, so that rows may be stored in different ways: not those of a convolution in
    /// several groups.
    pub has_own_rows: bool,
    /// The attribute that, as 1, says that `Columns` are `Rows`.
    pub rows_attr: Option<&'static str>,
    /// The attribute that, as 1, says that operand 0 has its reduction axis first.
    pub x_columns_attr: Option<&'static str>,
    /// For an operator that reads packed rows as they are, from which operand on further rows of the matrix may follow,
    /// each stored in its own way. `None`: it reads floats, and codes are dequantized before it.
    pub further_rows: Option<usize>,
}

impl WeightOperand {
    /// The right-hand side of a product with operand 0, as it is or, with the attribute `rows_attr`, transposed.
    pub fn right_of_product(attrs: &Attrs, rows_attr: &'static str) -> WeightOperand {
        let has_rows = attrs.int(rows_attr).unwrap_or(0) != 0;
        WeightOperand {
            slot: 1,
            layout: Some(if has_rows { MatrixLayout::Rows } else { MatrixLayout::Columns }),
            is_product: true,
            has_own_rows: true,
            rows_attr: Some(rows_attr),
            x_columns_attr: None,
            further_rows: None,
        }
    }

    /// Whether it is a matrix of which products read rows or columns.
    pub fn is_matrix_product(&self) -> bool {
        self.is_product && matches!(self.layout, Some(MatrixLayout::Rows | MatrixLayout::Columns))
    }

    /// Whether quantized activations have one scale for the whole tensor, since a window reads several rows of them,
    /// rather than one for each row.
    pub fn shares_scale_of_activations(&self) -> bool {
        self.layout.is_some_and(MatrixLayout::is_filters)
    }

    /// Whether operand `slot` of `n` own ones is the matrix, or further rows of it.
    pub fn is_slot(&self, slot: usize, n: usize) -> bool {
        slot == self.slot || self.further_rows.is_some_and(|first| (first..n).contains(&slot))
    }
}

impl Op {
    /// Which operand holds weights, if one does.
    pub fn weights(&self) -> Option<WeightOperand> {
        (self.def.weights?)(&self.attrs)
    }

    /// The weights, where operand `slot` is them.
    pub fn weights_at(&self, slot: usize) -> Option<WeightOperand> {
        self.weights().filter(|weights| weights.slot == slot)
    }
}
