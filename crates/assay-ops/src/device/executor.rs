//! Starts kernels and matrix products: on a GPU, or in tests on the emulator.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "emulator"))]
pub(crate) mod emulated;

use candle_core::{DType, Device, Result as CandleResult, Storage};

use super::launch::Launch;
use super::product::Product;

/// Memory for `count` values, with whatever is in it.
pub(super) fn allocate(device: &Device, dtype: DType, count: usize) -> CandleResult<Storage> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::allocate(device, dtype, count),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => emulated::allocate(dtype, count),
        _ => no_kernels(device, &format!("{count} values of {dtype:?}")),
    }
}

/// Bytes that are free on a device; `None` where it does not tell.
pub(super) fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::free_bytes(device),
        _ => None,
    }
}

/// The device address of a storage's first value.
pub(super) fn address(storage: &Storage) -> CandleResult<u64> {
    match storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => cuda::address(storage),
        #[cfg(any(test, feature = "emulator"))]
        Storage::Cpu(storage) => emulated::address(storage),
        _ => no_kernels(&storage.device(), "an address"),
    }
}

/// Starts a kernel; its arguments' memory is alive until this returns, which is enough: work of a device is in order.
pub(super) fn launch(device: &Device, launch: &Launch) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::launch(device, launch),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => emulated::launch(launch),
        _ => no_kernels(device, &launch.kernel),
    }
}

/// Starts a matrix product.
pub(super) fn multiply(device: &Device, product: &Product) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::multiply(device, product),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => emulated::multiply(product),
        _ => no_kernels(
            device,
            &format!("a matrix product of depth {}", product.depth),
        ),
    }
}

fn no_kernels<V>(device: &Device, what: &str) -> CandleResult<V> {
    candle_core::bail!(
        "{what} was asked of {:?}, for which this program has no kernels; build it with --features cuda",
        device.location()
    )
}
