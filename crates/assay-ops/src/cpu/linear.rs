//! The CPU side of [`crate::linear()`].

use std::ops::Range;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result as CandleResult, Shape,
    Tensor,
};

use crate::cpu::routines::product::{
    Output, Right, Term, View, Write, multiply, multiply_rounded, multiply_terms,
};
use crate::values::{Values, slice, zeros};
use crate::{LaidOut, Lora, Matrix, OpsError};

const NAME: &str = "linear";

/// x f32, contiguous; shapes fit.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Matrix,
    bias: Option<&Tensor>,
    lora: Option<Lora<'_>>,
) -> Result<Tensor, OpsError> {
    let y = match (weight, lora) {
        (Matrix::Dense(w), lora) if w.track_op() => {
            let y = x.apply_op2(&w.contiguous()?, TrackedLinear)?;
            match lora {
                Some(lora) => (y + adapted(x, None, lora)?)?,
                None => y,
            }
        }
        (frozen, Some(lora)) => adapted(x, Some(frozen.clone()), lora)?,
        (frozen, None) => x.apply_op1(FrozenLinear {
            weight: frozen.clone(),
        })?,
    };
    match bias {
        Some(bias) => Ok(y.broadcast_add(bias)?),
        None => Ok(y),
    }
}

fn adapted(x: &Tensor, weight: Option<Matrix>, lora: Lora<'_>) -> Result<Tensor, OpsError> {
    let factors = weight.as_ref().map_or(DType::F32, Matrix::factors);
    let operation = AdaptedLinear {
        weight,
        factors,
        scale: lora.scale as f32,
        // Panels of another type have other values, so they are not used.
        laid_out: lora
            .laid_out
            .filter(|laid_out| laid_out.a.dtype() == factors)
            .cloned(),
    };
    Ok(x.apply_op3(&lora.a.contiguous()?, &lora.b.contiguous()?, operation)?)
}

/// A contiguous left factor `[rows, width]`.
#[derive(Clone, Copy)]
struct Factor<'a> {
    values: &'a [f32],
    rows: usize,
    width: usize,
}

impl<'a> Factor<'a> {
    fn new(values: &'a [f32], [rows, width]: [usize; 2]) -> Self {
        Self {
            values,
            rows,
            width,
        }
    }

    fn view(self) -> View<'a> {
        View::rows(self.values, self.width)
    }
}

/// y = x W^T, W frozen.
struct FrozenLinear {
    weight: Matrix,
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, input) = layout.shape().dims2()?;
        let (out, _) = self.weight.dims()?;
        let mut y = zeros(rows * out)?;
        base_forward(
            &self.weight,
            Factor {
                values: slice(x, layout)?,
                rows,
                width: input,
            },
            None,
            &mut y,
        )?;
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut dx = zeros(x.elem_count())?;
        let (rows, width) = grad.dims2()?;
        base_backward(
            &self.weight,
            Factor::new(&Values::of(&grad)?, [rows, width]),
            None,
            &mut dx,
        )?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// y = x W^T, W trained.
struct TrackedLinear;

impl CustomOp2 for TrackedLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, input) = x_layout.shape().dims2()?;
        let (out, _) = weight_layout.shape().dims2()?;
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let mut y = zeros(rows * out)?;
        multiply(
            [rows, input, out],
            View::rows(x, input),
            View::rows(weight, input).transposed(),
            &mut y,
            Write::Set,
        );
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (rows, input) = x.dims2()?;
        let out = weight.dims()[0];
        let (x_values, w, g) = (Values::of(x)?, Values::of(weight)?, Values::of(&grad)?);
        let dx = if x.track_op() {
            let mut dx = zeros(rows * input)?;
            multiply(
                [rows, out, input],
                View::rows(&g, out),
                View::rows(&w, input),
                &mut dx,
                Write::Set,
            );
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let mut dw = zeros(out * input)?;
        multiply(
            [out, rows, input],
            View::rows(&g, out).transposed(),
            View::rows(&x_values, input),
            &mut dw,
            Write::Set,
        );
        Ok((
            dx,
            Some(Tensor::from_vec(dw, weight.shape(), weight.device())?),
        ))
    }
}

/// y = x W^T + scale * (x A^T) B^T, W frozen or left out.
struct AdaptedLinear {
    weight: Option<Matrix>,
    /// Type of the factors of products.
    factors: DType,
    scale: f32,
    laid_out: Option<LaidOut>,
}

impl CustomOp3 for AdaptedLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, input) = x_layout.shape().dims2()?;
        let (out, rank) = b_layout.shape().dims2()?;
        let (x, a, b) = (
            slice(x, x_layout)?,
            slice(a, a_layout)?,
            slice(b, b_layout)?,
        );
        let mut y = zeros(rows * out)?;
        let laid_out = self.laid_out.as_ref();
        let a = match laid_out {
            Some(laid_out) => laid_out.a.turned(),
            None => View::rows(a, input).transposed().into(),
        };
        let x = Factor::new(x, [rows, input]);
        let down = self.scaled_product([rows, input, rank], x.view(), a)?;
        let adapter = Adapted {
            down: Factor::new(&down, [rows, rank]),
            b,
            laid_out: laid_out.map(|laid_out| laid_out.b.turned()),
        };
        match &self.weight {
            Some(weight) => base_forward(weight, x, Some(adapter), &mut y)?,
            None => multiply(
                [rows, rank, out],
                adapter.down.view(),
                adapter.rows_of_b(0..out),
                &mut y,
                Write::Set,
            ),
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let ((rows, input), (out, rank)) = (x.dims2()?, b.dims2()?);
        let (x_values, a_values, b_values, g) = (
            Values::of(x)?,
            Values::of(a)?,
            Values::of(b)?,
            Values::of(&grad)?,
        );
        // Gradient at x A^T: scale * g B.
        let b_rows = View::rows(&b_values, rank).into();
        let ddown = self.scaled_product([rows, out, rank], View::rows(&g, out), b_rows)?;
        let (x_rows, g, ddown) = (
            Factor::new(&x_values, [rows, input]),
            Factor::new(&g, [rows, out]),
            Factor::new(&ddown, [rows, rank]),
        );
        let at = |of: &Tensor, gradient: Result<Vec<f32>, OpsError>| -> CandleResult<_> {
            Ok(Some(Tensor::from_vec(gradient?, of.shape(), of.device())?))
        };
        let dx = match x.track_op() {
            true => at(x, self.grad_input(g, ddown, &a_values))?,
            false => None,
        };
        let da = match a.track_op() {
            true => at(a, self.outer(ddown, x_rows))?,
            false => None,
        };
        let db = match b.track_op() {
            true => at(b, self.grad_up(g, x_rows, &a_values))?,
            false => None,
        };
        Ok((dx, da, db))
    }
}

impl AdaptedLinear {
    /// g W + ddown A, `[rows, in]`.
    fn grad_input(
        &self,
        g: Factor<'_>,
        ddown: Factor<'_>,
        a: &[f32],
    ) -> Result<Vec<f32>, OpsError> {
        let input = a.len() / ddown.width.max(1);
        let mut dx = zeros(g.rows * input)?;
        match &self.weight {
            Some(weight) => base_backward(weight, g, Some((ddown, a)), &mut dx)?,
            None => multiply(
                [g.rows, ddown.width, input],
                ddown.view(),
                View::rows(a, input),
                &mut dx,
                Write::Set,
            ),
        }
        Ok(dx)
    }

    /// g^T (scale x A^T), `[out, rank]`.
    fn grad_up(&self, g: Factor<'_>, x: Factor<'_>, a: &[f32]) -> Result<Vec<f32>, OpsError> {
        let rank = a.len() / x.width.max(1);
        let a = View::rows(a, x.width).transposed().into();
        let down = self.scaled_product([x.rows, x.width, rank], x.view(), a)?;
        self.outer(g, Factor::new(&down, [x.rows, rank]))
    }

    /// left^T right, `[left.width, right.width]`.
    fn outer(&self, left: Factor<'_>, right: Factor<'_>) -> Result<Vec<f32>, OpsError> {
        let dims = [left.width, left.rows, right.width];
        self.product(dims, left.view().transposed(), right.view().into())
    }

    /// scale * a b as new values.
    fn scaled_product(
        &self,
        dims: [usize; 3],
        a: View<'_>,
        b: Right<'_>,
    ) -> Result<Vec<f32>, OpsError> {
        let mut c = self.product(dims, a, b)?;
        c.iter_mut().for_each(|value| *value *= self.scale);
        Ok(c)
    }

    /// a b as new values, with factors of the type of the weight.
    fn product(
        &self,
        [rows, depth, columns]: [usize; 3],
        a: View<'_>,
        b: Right<'_>,
    ) -> Result<Vec<f32>, OpsError> {
        let mut c = zeros(rows * columns)?;
        let term = Term { a, b, depth };
        let output = Output::rows(&mut c, columns);
        sum_of_products(self.factors, [rows, columns], &[term], output, Write::Set)?;
        Ok(c)
    }
}

/// Writes a sum of products with factors of type `factors`, F32 or BF16.
fn sum_of_products(
    factors: DType,
    dims: [usize; 2],
    terms: &[Term<'_>],
    output: Output<'_>,
    write: Write,
) -> Result<(), OpsError> {
    match factors {
        DType::BF16 => multiply_rounded(dims, terms, output, write),
        _ => {
            multiply_terms(dims, terms, output, write);
            Ok(())
        }
    }
}

/// The adapter's term of a sum: the output of its down map, and its up map.
#[derive(Clone, Copy)]
struct Adapted<'a> {
    /// scale * x A^T.
    down: Factor<'a>,
    /// `[out, rank]`.
    b: &'a [f32],
    /// The transpose of B in panels.
    laid_out: Option<Right<'a>>,
}

impl<'a> Adapted<'a> {
    /// Rows of B, transposed: the right factor for these outputs.
    fn rows_of_b(self, rows: Range<usize>) -> Right<'a> {
        let rank = self.down.width;
        match self.laid_out {
            Some(part) if rows.len() * rank == self.b.len() => part,
            _ => View::rows(&self.b[rows.start * rank..], rank)
                .transposed()
                .into(),
        }
    }
}

/// y `[rows, out]` = x W^T + the adapter's term, both summed while a block of y is in the cache.
fn base_forward(
    weight: &Matrix,
    x: Factor<'_>,
    adapter: Option<Adapted<'_>>,
    y: &mut [f32],
) -> CandleResult<()> {
    let (out, input) = weight.dims()?;
    let mut add_rows = |first: usize, columns: usize, w: Right<'_>| {
        let mut terms = vec![Term {
            a: x.view(),
            b: w,
            depth: input,
        }];
        terms.extend(adapter.map(|adapter| Term {
            a: adapter.down.view(),
            b: adapter.rows_of_b(first..first + columns),
            depth: adapter.down.width,
        }));
        let y = Output::rows(&mut y[first..], out);
        sum_of_products(weight.factors(), [x.rows, columns], &terms, y, Write::Set)
    };
    match weight {
        Matrix::Panels(panels) => Ok(add_rows(0, out, panels.turned())?),
        rows => rows.each_rows(|first, w| {
            let turned = View::rows(w, input).transposed();
            Ok(add_rows(first, w.len() / input.max(1), turned.into())?)
        }),
    }
}

/// dx `[rows, in]` = g W + the adapter's term.
fn base_backward(
    weight: &Matrix,
    grad: Factor<'_>,
    adapter: Option<(Factor<'_>, &[f32])>,
    dx: &mut [f32],
) -> CandleResult<()> {
    let (out, input) = weight.dims()?;
    let mut add_rows = |first: usize, depth: usize, w: Right<'_>| {
        let mut terms = vec![Term {
            a: View::rows(&grad.values[first..], grad.width),
            b: w,
            depth,
        }];
        if let (Some((ddown, a)), true) = (adapter, first + depth == out) {
            terms.push(Term {
                a: ddown.view(),
                b: View::rows(a, input).into(),
                depth: ddown.width,
            });
        }
        let write = if first == 0 { Write::Set } else { Write::Add };
        let dx = Output::rows(dx, input);
        sum_of_products(weight.factors(), [grad.rows, input], &terms, dx, write)
    };
    match weight {
        Matrix::Panels(panels) => Ok(add_rows(0, out, panels.turned().transposed())?),
        rows => rows.each_rows(|first, w| {
            let depth = w.len() / input.max(1);
            Ok(add_rows(first, depth, View::rows(w, input).into())?)
        }),
    }
}
