//! One buffer written by several tasks, each its own part.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// A mutable slice that parallel tasks write without overlap.
pub(crate) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a borrow of plain floats; every access goes through an operation whose callers
// write disjoint parts.
unsafe impl Send for Disjoint<'_> {}
// SAFETY: as above.
unsafe impl Sync for Disjoint<'_> {}

/// Rows of a part of a buffer: the first value and the distance of rows.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) start: *mut f32,
    pub(crate) stride: usize,
    /// Values from `start` to the end of the buffer.
    pub(crate) len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Disjoint<'a> {
    /// Takes the slice for as long as the tasks run.
    pub(crate) fn new(values: &'a mut [f32]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            borrow: PhantomData,
        }
    }

    /// The rows that start at value `at`, `stride` apart.
    pub(crate) fn tile(&self, at: usize, stride: usize) -> Tile<'a> {
        assert!(at <= self.len);
        // SAFETY: `at` is inside the slice or one past its end.
        Tile {
            start: unsafe { self.start.add(at) },
            stride,
            len: self.len - at,
            borrow: PhantomData,
        }
    }

    /// The values `at..at + len`.
    ///
    /// # Safety
    /// No other task reads or writes these values while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

impl<'a> Tile<'a> {
    /// Rows of a slice, `stride` apart.
    pub(crate) fn of(values: &'a mut [f32], stride: usize) -> Self {
        Self {
            start: values.as_mut_ptr(),
            stride,
            len: values.len(),
            borrow: PhantomData,
        }
    }
}
