//! Launches kernels and matrix products: on a GPU, or in tests in the emulator.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "emulator"))]
pub(crate) mod emulated;

use candle_core::{DType, Device, Result as CandleResult, Storage};

use super::launch::Launch;
use super::product::Product;
use super::recording::{self, StepInput, Work};

/// Allocates uninitialised memory for `count` values.
pub(super) fn allocate(device: &Device, dtype: DType, count: usize) -> CandleResult<Storage> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::allocate(device, dtype, count),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => emulated::allocate(dtype, count),
        _ => no_kernels(device, &format!("{count} values of {dtype:?}")),
    }
}

/// Returns the free bytes of a device; `None` where it does not report them.
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

/// Launches a kernel. The memory of its arguments lives until this returns, which suffices because
/// a device executes work in order.
pub(super) fn launch(device: &Device, launch: &Launch) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::launch(device, launch),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => emulated::launch(launch),
        _ => no_kernels(device, &launch.kernel),
    }?;
    recording::note(|| Work::Kernel(launch.clone()));
    Ok(())
}

/// Launches a matrix product.
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
    }?;
    recording::note(|| Work::Product(product.clone()));
    Ok(())
}

/// The state of recorded work on a device.
#[derive(Default)]
pub(super) enum Graph {
    /// Not replayed yet.
    #[default]
    Untried,
    /// The driver refused the graph; kernels are launched one by one.
    #[cfg(feature = "cuda")]
    Refused,
    /// A graph of the driver.
    #[cfg(feature = "cuda")]
    Ready(cuda::Graph),
}

/// Replays recorded work.
pub(super) fn start(device: &Device, work: &[Work], graph: &mut Graph) -> CandleResult<()> {
    let one_by_one = || {
        work.iter().try_for_each(|work| match work {
            Work::Kernel(kernel) => launch(device, kernel),
            Work::Product(product) => multiply(device, product),
        })
    };
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::start(device, graph, one_by_one);
    }
    *graph = Graph::Untried;
    one_by_one()
}

/// Replaces values at an address.
pub(super) fn write(device: &Device, address: u64, input: StepInput<'_>) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::write(device, address, input),
        #[cfg(any(test, feature = "emulator"))]
        Device::Cpu => {
            emulated::write(address, input);
            Ok(())
        }
        _ => no_kernels(device, &format!("{input:?} at {address}")),
    }
}

/// [`super::open_gpu`].
pub(super) fn open_gpu(index: usize) -> CandleResult<Device> {
    #[cfg(feature = "cuda")]
    return cuda::open(index);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(index)
}

fn no_kernels<V>(device: &Device, request: &str) -> CandleResult<V> {
    candle_core::bail!(
        "{request} was requested on {:?}, for which this program has no kernels; build it with --features cuda",
        device.location()
    )
}
