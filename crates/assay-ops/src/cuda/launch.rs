//! A kernel and its arguments, and the memory that kernels write.

use candle_core::backend::BackendDevice;
use candle_core::cpu_backend::CpuDevice;
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result as CandleResult, Shape, Storage, Tensor};

use super::{executor, recording};

/// One argument, in its memory layout.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    allow(dead_code)
)]
pub(crate) enum Arg {
    Address(u64),
    U32(u32),
    F32(f32),
    F64(f64),
}

/// A kernel, its grid and its arguments in the order of its parameters.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(any(test, feature = "cuda", feature = "emulator")),
    allow(dead_code)
)]
pub(crate) struct Launch {
    pub(super) kernel: String,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) args: Vec<Arg>,
}

/// Memory that a kernel will fill, and the shape of its tensor.
pub(crate) struct Fresh {
    pub(super) storage: Storage,
    pub(super) shape: Shape,
}

impl Fresh {
    /// Allocates uninitialised memory.
    pub(crate) fn new(
        device: &Device,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> CandleResult<Self> {
        let shape = shape.into();
        Ok(Self {
            storage: executor::allocate(device, dtype, shape.elem_count())?,
            shape,
        })
    }

    /// Zeros.
    pub(crate) fn zeros(
        device: &Device,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> CandleResult<Self> {
        let shape = shape.into();
        Ok(Self {
            storage: match device {
                Device::Cpu => Storage::Cpu(CpuDevice.zeros_impl(&shape, dtype)?),
                Device::Cuda(device) => Storage::Cuda(device.zeros_impl(&shape, dtype)?),
                Device::Metal(_) => candle_core::bail!("there are no kernels for Metal"),
            },
            shape,
        })
    }

    /// As [`Fresh::new`], with the type, shape and device of `like`.
    pub(crate) fn like(like: &Tensor) -> CandleResult<Self> {
        Self::new(like.device(), like.dtype(), like.shape())
    }

    /// Returns the filled memory as a tensor without history.
    pub(crate) fn tensor(self) -> Tensor {
        let tensor = Tensor::from_storage(self.storage, self.shape, BackpropOp::none(), false);
        recording::keep(&tensor);
        tensor
    }
}

impl Launch {
    /// The kernel `name` for activations of `dtype`, with `grid` blocks of `threads` threads.
    pub(crate) fn new(
        name: &str,
        dtype: DType,
        grid: [usize; 3],
        threads: usize,
    ) -> CandleResult<Self> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            other => candle_core::bail!("{name}: kernels are for F32 and BF16, not {other:?}"),
        };
        let [x, y, z] = grid;
        Ok(Self {
            kernel: format!("{name}_{suffix}"),
            grid: [small(x)?, small(y)?, small(z)?],
            threads: small(threads)?,
            args: Vec::new(),
        })
    }

    /// As [`Launch::new`], with one thread per value.
    pub(crate) fn values(name: &str, dtype: DType, count: usize) -> CandleResult<Self> {
        Self::new(
            name,
            dtype,
            [count.div_ceil(ROW_THREADS), 1, 1],
            ROW_THREADS,
        )
    }

    /// As [`Launch::new`], with one block per row.
    pub(crate) fn rows(name: &str, dtype: DType, rows: usize) -> CandleResult<Self> {
        Self::new(name, dtype, [rows, 1, 1], ROW_THREADS)
    }

    /// Adds a contiguous tensor of type `dtype`, which the kernel reads or changes.
    pub(crate) fn tensor(&mut self, tensor: &Tensor, dtype: DType) -> CandleResult<&mut Self> {
        if tensor.dtype() != dtype {
            let (kernel, found) = (&self.kernel, tensor.dtype());
            candle_core::bail!("{kernel}: expected {dtype:?}, found {found:?}")
        }
        self.args.push(Arg::Address(tensor_address(tensor)?));
        Ok(self)
    }

    /// Adds a tensor as [`Launch::tensor`] does, or a null address.
    pub(crate) fn maybe(
        &mut self,
        tensor: Option<&Tensor>,
        dtype: DType,
    ) -> CandleResult<&mut Self> {
        match tensor {
            Some(tensor) => self.tensor(tensor, dtype),
            None => {
                self.args.push(Arg::Address(0));
                Ok(self)
            }
        }
    }

    /// Adds memory that the kernel fills.
    pub(crate) fn fills(&mut self, fresh: &Fresh) -> CandleResult<&mut Self> {
        self.fills_from(fresh, 0)
    }

    /// Adds memory that the kernel fills from value `start` on.
    pub(crate) fn fills_from(&mut self, fresh: &Fresh, start: usize) -> CandleResult<&mut Self> {
        let before = start * fresh.storage.dtype().size_in_bytes();
        let address = executor::address(&fresh.storage)? + before as u64;
        self.args.push(Arg::Address(address));
        Ok(self)
    }

    /// Adds a size or an index.
    pub(crate) fn number(&mut self, number: usize) -> CandleResult<&mut Self> {
        self.args.push(Arg::U32(small(number)?));
        Ok(self)
    }

    /// Adds an f32 constant.
    pub(crate) fn float(&mut self, number: f32) -> &mut Self {
        self.args.push(Arg::F32(number));
        self
    }

    /// Adds an f64 constant.
    pub(crate) fn double(&mut self, number: f64) -> &mut Self {
        self.args.push(Arg::F64(number));
        self
    }

    /// Launches the kernel, unless its grid is empty.
    pub(crate) fn run(&self, device: &Device) -> CandleResult<()> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        executor::launch(device, self)
    }
}

/// Threads of a block of the kernels that work on rows or values.
pub(crate) const ROW_THREADS: usize = 256;

/// Returns the address of the first value of a contiguous tensor.
pub(super) fn tensor_address(tensor: &Tensor) -> CandleResult<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!(
            "a kernel was given a strided tensor of shape {:?}",
            tensor.shape()
        )
    };
    Ok(executor::address(&storage)? + (start * tensor.dtype().size_in_bytes()) as u64)
}

fn small(number: usize) -> CandleResult<u32> {
    u32::try_from(number).map_err(|_| {
        candle_core::Error::Msg(format!(
            "{number} values or rows are more than one kernel takes; use a smaller token budget"
        ))
    })
}
