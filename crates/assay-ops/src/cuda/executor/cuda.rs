//! Kernels and matrix products on an NVIDIA GPU. There is one stream, so work runs in the order in
//! which it is launched.

use std::sync::Arc;

use candle_core::cuda::cudarc::cublas::{result::gemm_ex, sys};
use candle_core::cuda::cudarc::driver::result::memcpy_htod_async;
use candle_core::cuda::cudarc::driver::{
    CudaGraph, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, sys as driver,
};
use candle_core::cuda::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{DType, Device, Result as CandleResult, Storage};
use half::bf16;

use crate::cuda::launch::{Arg, Launch};
use crate::cuda::product::{Operand, Product};
use crate::cuda::recording::StepInput;

/// Every kernel, compiled when assay was built.
const MODULE: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

#[allow(unsafe_code)]
pub(super) fn allocate(device: &CudaDevice, dtype: DType, count: usize) -> CandleResult<Storage> {
    // The driver refuses allocations of size 0.
    let count = count.max(1);
    // SAFETY: the caller fills the memory before anything reads it: `Fresh` is passed to one kernel
    // that writes all of it.
    let slice = unsafe {
        match dtype {
            DType::U8 => CudaStorageSlice::U8(device.alloc::<u8>(count)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc::<u32>(count)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc::<bf16>(count)?),
            DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(count)?),
            DType::F64 => CudaStorageSlice::F64(device.alloc::<f64>(count)?),
            other => candle_core::bail!("no kernel works on {other:?}"),
        }
    };
    let device = device.clone();
    Ok(Storage::Cuda(CudaStorage { slice, device }))
}

/// Free bytes on this device.
pub(super) fn free_bytes(device: &CudaDevice) -> Option<u64> {
    let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
    Some(free as u64)
}

/// The address may outlive its guard, because there is one stream and the caller keeps the storage.
pub(super) fn address(storage: &CudaStorage) -> CandleResult<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        _ => candle_core::bail!("no kernel works on this type of values"),
    })
}

#[allow(unsafe_code)]
pub(super) fn launch(device: &CudaDevice, launch: &Launch) -> CandleResult<()> {
    let function = device.get_or_load_custom_func(&launch.kernel, "assay", MODULE)?;
    let mut builder = function.builder();
    for arg in &launch.args {
        match arg {
            Arg::Address(address) => builder.arg(address),
            Arg::U32(number) => builder.arg(number),
            Arg::F32(number) => builder.arg(number),
            Arg::F64(number) => builder.arg(number),
        };
    }
    let [x, y, z] = launch.grid;
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (launch.threads, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: number, order and types of the arguments are the kernel's, which the emulator's tests
    // run for every kernel with the same `Launch`; addresses are of memory that is alive, and
    // freeing it is ordered after this on the one stream.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// A recording in the driver's form.
pub(super) type Graph = CudaGraph;

/// A GPU with its own stream, because the default stream cannot be captured.
#[allow(unsafe_code)]
pub(super) fn open(index: usize) -> CandleResult<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: all work is started on this one stream, so it is in order without events.
        unsafe { cuda.disable_event_tracking() }
    }
    Ok(device)
}

/// Starts recorded work as a graph, which is captured the first time.
pub(super) fn start(
    device: &CudaDevice,
    graph: &mut super::Graph,
    one_by_one: impl Fn() -> CandleResult<()>,
) -> CandleResult<()> {
    let stream = device.cuda_stream();
    if let super::Graph::Untried = graph {
        *graph = match captured(&stream, &one_by_one) {
            Some(captured) => super::Graph::Ready(captured),
            None => super::Graph::Refused,
        };
    }
    match graph {
        super::Graph::Ready(graph) => graph.launch().w(),
        _ => one_by_one(),
    }
}

fn captured(stream: &Arc<CudaStream>, work: &impl Fn() -> CandleResult<()>) -> Option<CudaGraph> {
    let mode = driver::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).ok()?;
    let started = work();
    let graph = stream.end_capture(driver::CUgraphInstantiate_flags(0));
    started.ok()?;
    graph.ok()?
}

#[allow(unsafe_code)]
pub(super) fn write(device: &CudaDevice, address: u64, input: StepInput<'_>) -> CandleResult<()> {
    let stream = device.cuda_stream().cu_stream();
    // SAFETY: the caller has compared the tensor's size and type with the values'; the driver has
    // copied pageable memory when this returns.
    unsafe {
        match input {
            StepInput::Ids(values) => memcpy_htod_async(address, values, stream),
            StepInput::Numbers(values) => memcpy_htod_async(address, values, stream),
        }
    }
    .w()
}

/// Row-major c = a b is column-major c^T = b^T a^T, so the factors change places.
#[allow(unsafe_code)]
pub(super) fn multiply(device: &CudaDevice, product: &Product) -> CandleResult<()> {
    let size = |n: usize| {
        i32::try_from(n).map_err(|_| candle_core::Error::Msg(format!("a matrix side of {n}")))
    };
    let (a, b, c) = (product.a, product.b, product.c);
    let blas = device.cublas_handle();
    // SAFETY: the three matrices lie in memory that is alive, with the sides and row distances
    // given; alpha and beta are read before the call returns.
    unsafe {
        gemm_ex(
            *blas.handle(),
            orientation(b),
            orientation(a),
            size(product.columns)?,
            size(product.rows)?,
            size(product.depth)?,
            (&raw const product.alpha).cast(),
            b.address as *const _,
            data_type(b.dtype)?,
            size(b.columns)?,
            a.address as *const _,
            data_type(a.dtype)?,
            size(a.columns)?,
            (&raw const product.beta).cast(),
            c.address as *mut _,
            data_type(c.dtype)?,
            size(product.columns)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

fn orientation(operand: Operand) -> sys::cublasOperation_t {
    match operand.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    }
}

fn data_type(dtype: DType) -> CandleResult<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => candle_core::bail!("no matrix product of {other:?}"),
    }
}
