//! Matrix products on slices.

/// A matrix view: value (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows one after another, `stride` values apart.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, row_stride: stride, column_stride: 1 }
    }

    /// The transpose.
    pub(crate) fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }
}

/// Whether a product replaces what is there or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// c = a b
    Set,
    /// c += a b
    Add,
}

/// c `[m, n]` (row-major, contiguous) = a `[m, k]` times b `[k, n]`, or added.
#[allow(unsafe_code)]
pub(crate) fn multiply(dims: [usize; 3], a: View<'_>, b: View<'_>, c: &mut [f32], write: Write) {
    let [m, k, n] = dims;
    assert_eq!(c.len(), m * n);
    if m == 0 || n == 0 { return; }
    if k == 0 { if write == Write::Set { c.fill(0.0); } return; }
    assert!((m - 1) * a.row_stride + (k - 1) * a.column_stride < a.values.len());
    assert!((k - 1) * b.row_stride + (n - 1) * b.column_stride < b.values.len());
    // SAFETY: the assertions above bound every address.
    unsafe {
        gemm::gemm(
            m, n, k, c.as_mut_ptr(), 1, n as isize, write == Write::Add,
            a.values.as_ptr(), a.column_stride as isize, a.row_stride as isize,
            b.values.as_ptr(), b.column_stride as isize, b.row_stride as isize,
            1.0, 1.0, false, false, false, gemm::Parallelism::Rayon(0),
        );
    }
}
