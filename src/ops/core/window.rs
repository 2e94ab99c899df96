//! Sliding windows, as convolutions and pools have them: sizes of results, ONNX's attributes, ranges.

use crate::ir::{Attr, Attrs, Dim, OpError};
use crate::ops::util::ints_attr;

/// Attributes that ONNX's windows have, and those of the core's normal form.
pub const ATTRS: [&str; 4] = ["kernel", "strides", "pads", "dilations"];

/// A window over `n` spatial axes: sizes, steps, pads (all firsts, then all lasts) and dilations, `n` or `2 * n` long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Size along each axis.
    pub kernel: Vec<i64>,
    /// Step along each axis.
    pub strides: Vec<i64>,
    /// Elements added before the first along each axis, then those after the last.
    pub pads: Vec<i64>,
    /// Distance between elements of the window along each axis.
    pub dilations: Vec<i64>,
    /// Whether a last window that is not full counts.
    pub ceil: bool,
}

impl Window {
    /// The window that attributes describe, in ONNX's form or the core's, over axes of `spatial` sizes.
    ///
    /// # Errors
    /// An attribute has a wrong length or range, or `auto_pad` needs a size that is not known.
    pub fn of(attrs: &Attrs, kernel: Vec<i64>, spatial: &[Dim]) -> Result<Window, OpError> {
        let n = spatial.len();
        let list = |name: &'static str, default: i64, len: usize, least: i64| -> Result<Vec<i64>, OpError> {
            let values = ints_attr(attrs, name)?.unwrap_or_else(|| vec![default; len]);
            // The bound keeps every sum below free of overflow.
            if values.len() != len || values.iter().any(|v| !(least..=1 << 24).contains(v)) {
                return Err(OpError::attribute(name, format!("is {values:?} for {n} spatial axes")));
            }
            Ok(values)
        };
        if kernel.len() != n || kernel.iter().any(|k| !(1..=1 << 24).contains(k)) {
            return Err(OpError::attribute("kernel_shape", format!("is {kernel:?} for {n} spatial axes")));
        }
        let mut window = Window {
            strides: list("strides", 1, n, 1)?,
            pads: Vec::new(),
            dilations: list("dilations", 1, n, 1)?,
            ceil: attrs.int("ceil_mode").or(attrs.int("ceil")).unwrap_or(0) != 0,
            kernel,
        };
        window.pads = match attrs.str("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => list("pads", 0, 2 * n, 0)?,
            "VALID" => vec![0; 2 * n],
            mode @ ("SAME_UPPER" | "SAME_LOWER") => {
                let mut pads = vec![0; 2 * n];
                for (i, size) in spatial.iter().enumerate() {
                    let (step, extent) = (window.strides[i], window.extent(i));
                    let total = match size.known() {
                        Some(size) => (size.saturating_add(step - 1) / step - 1) * step - size + extent,
                        None if step == 1 => extent - 1,
                        None => {
                            return Err(OpError::attribute("auto_pad", format!("needs the size of the axis {size}")));
                        }
                    };
                    let (total, upper) = (total.max(0), mode == "SAME_UPPER");
                    pads[i] = if upper { total / 2 } else { total - total / 2 };
                    pads[n + i] = total - pads[i];
                }
                pads
            }
            other => return Err(OpError::attribute("auto_pad", format!("is {other:?}"))),
        };
        Ok(window)
    }

    /// Elements from the first to the last of the window along an axis.
    pub fn extent(&self, axis: usize) -> i64 {
        self.dilations[axis] * (self.kernel[axis] - 1) + 1
    }

    /// The sizes of the result's spatial axes.
    ///
    /// # Errors
    /// The window is larger than a padded axis.
    pub fn out(&self, spatial: &[Dim]) -> Result<Vec<Dim>, OpError> {
        let n = spatial.len();
        let one = |i: usize| {
            let (step, extent, pads) = (self.strides[i], self.extent(i), self.pads[i] + self.pads[n + i]);
            let room = &spatial[i] + &Dim::Known(pads - extent);
            if room.known().is_some_and(|r| r < 0) {
                return Err(OpError::attribute(
                    "kernel_shape",
                    format!("spans {extent} of {}+{pads} elements", spatial[i]),
                ));
            }
            let up = if self.ceil { step - 1 } else { 0 };
            let steps = (&room + &Dim::Known(up)).floor_div(&Dim::Known(step)).unwrap_or(Dim::Known(0));
            let mut out = &steps + &Dim::Known(1);
            // A window that would start in the padding behind the last element does not count.
            match (self.ceil, out.known(), spatial[i].known()) {
                (false, ..) => {}
                (true, Some(n), Some(size)) => {
                    out = Dim::Known(if (n - 1) * step >= size + self.pads[i] { n - 1 } else { n })
                }
                _ if self.pads[n + i] >= extent => {
                    return Err(OpError::attribute(
                        "ceil_mode",
                        format!("is 1 with whole windows in the padding, over {} elements", spatial[i]),
                    ));
                }
                _ => out = Dim::least(&out, &(&spatial[i] + &Dim::Known(self.pads[i])).div_ceil(step.unsigned_abs())),
            }
            Ok(out)
        };
        (0..n).map(one).collect()
    }

    /// The window over two axes, the first of size 1, that does what this one does over one.
    pub fn flat(&self) -> Window {
        let lead = |values: &[i64], with: i64| [&[with], values].concat();
        if self.kernel.len() != 1 {
            return self.clone();
        }
        Window {
            kernel: lead(&self.kernel, 1),
            strides: lead(&self.strides, 1),
            pads: vec![0, self.pads[0], 0, self.pads[1]],
            dilations: lead(&self.dilations, 1),
            ceil: self.ceil,
        }
    }

    /// Sets the core's attributes.
    pub fn write(&self, attrs: Attrs) -> Attrs {
        let lists = [&self.kernel, &self.strides, &self.pads, &self.dilations];
        ATTRS.iter().zip(lists).fold(attrs, |attrs, (name, list)| attrs.with(name, Attr::Ints(list.clone())))
    }

    /// For a window over two axes, as sizes of memory: kernel, strides, pads before and dilations.
    pub fn plain(&self) -> Plain {
        let pair = |v: &[i64]| [v.first().copied().unwrap_or(1) as usize, v.get(1).copied().unwrap_or(1) as usize];
        Plain {
            kernel: pair(&self.kernel),
            strides: pair(&self.strides),
            pads: pair(&self.pads),
            dilations: pair(&self.dilations),
        }
    }
}

/// A window over two axes.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Steps.
    pub strides: [usize; 2],
    /// Elements before the first.
    pub pads: [usize; 2],
    /// Distances inside the window.
    pub dilations: [usize; 2],
}

impl Plain {
    /// The positions `from..to` of the window along `axis` at which its element `tap` meets one of `size` elements, of
    /// `out` positions.
    pub fn span(&self, axis: usize, tap: usize, size: usize, out: usize) -> (usize, usize) {
        let (step, pad, at) = (self.strides[axis], self.pads[axis], tap * self.dilations[axis]);
        let from = pad.saturating_sub(at).div_ceil(step);
        let to = if size + pad > at { (size + pad - at).div_ceil(step) } else { 0 };
        (from.min(out), to.min(out).max(from.min(out)))
    }

    /// The element that `tap` meets at position `at`, which is in its [`Plain::span`].
    pub fn element(&self, axis: usize, tap: usize, at: usize) -> usize {
        at * self.strides[axis] + tap * self.dilations[axis] - self.pads[axis]
    }
}
