//! The emulator for tests: kernel sources compiled for the host, matrix products as plain loops.
//!
//! New memory is filled with NaN, so results reveal values that a kernel does not write or reads
//! too early.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Result as CandleResult, Storage};
use half::bf16;
use libloading::Library;

use crate::cuda::launch::{Arg, Launch};
use crate::cuda::product::{Operand, Product, Target};
use crate::cuda::recording::StepInput;

type Emulate =
    unsafe extern "C" fn(*const c_char, *const u32, u32, *mut *mut c_void, c_int) -> c_int;

thread_local! {
    /// Whether a block's threads run from the last to the first.
    pub(crate) static DESCENDING: Cell<bool> = const { Cell::new(false) };
}

/// The compiled kernels, or the reason why there are none: no host compiler or no sources.
pub(crate) fn library() -> Result<&'static Library, &'static str> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(build).as_ref().map_err(String::as_str)
}

#[allow(unsafe_code)]
fn build() -> Result<Library, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
    let source = sources.join("kernels.cu");
    if !source.exists() {
        return Err(format!("{} is not there", source.display()));
    }
    let target: PathBuf =
        std::env::temp_dir().join(format!("assay-kernels-{}.so", std::process::id()));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let built = Command::new(&compiler)
        .args(["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared"])
        .args([
            "-ffp-contract=off",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-o",
        ])
        .arg(&target)
        .arg(source)
        .status();
    match built {
        Err(error) => return Err(format!("{compiler}: {error}")),
        Ok(status) if !status.success() => {
            return Err(format!("{compiler} cannot compile the kernels"));
        }
        Ok(_) => {}
    }
    // SAFETY: the library was built a moment ago from this crate's sources; its initialisers fill a
    // table of names.
    let library = unsafe { Library::new(&target) }.map_err(|error| error.to_string())?;
    let _ = std::fs::remove_file(&target);
    Ok(library)
}

pub(super) fn allocate(dtype: DType, count: usize) -> CandleResult<Storage> {
    Ok(Storage::Cpu(match dtype {
        DType::U8 => CpuStorage::U8(vec![0xAA; count]),
        DType::U32 => CpuStorage::U32(vec![0xAAAA_AAAA; count]),
        DType::BF16 => CpuStorage::BF16(vec![bf16::NAN; count]),
        DType::F32 => CpuStorage::F32(vec![f32::NAN; count]),
        DType::F64 => CpuStorage::F64(vec![f64::NAN; count]),
        other => candle_core::bail!("no kernel works on {other:?}"),
    }))
}

pub(super) fn address(storage: &CpuStorage) -> CandleResult<u64> {
    Ok(match storage {
        CpuStorage::U8(values) => values.as_ptr() as u64,
        CpuStorage::U32(values) => values.as_ptr() as u64,
        CpuStorage::BF16(values) => values.as_ptr() as u64,
        CpuStorage::F32(values) => values.as_ptr() as u64,
        CpuStorage::F64(values) => values.as_ptr() as u64,
        _ => candle_core::bail!("no kernel works on this type of values"),
    })
}

#[allow(unsafe_code)]
pub(super) fn launch(launch: &Launch) -> CandleResult<()> {
    let library = library().map_err(candle_core::Error::msg)?;
    let name = CString::new(launch.kernel.as_str()).map_err(candle_core::Error::wrap)?;
    let mut args: Vec<*mut c_void> = launch
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Address(value) => (&raw const *value).cast_mut().cast(),
            Arg::U32(value) => (&raw const *value).cast_mut().cast(),
            Arg::F32(value) => (&raw const *value).cast_mut().cast(),
            Arg::F64(value) => (&raw const *value).cast_mut().cast(),
        })
        .collect();
    // SAFETY: the symbol has this type; arguments are pointers to values of the kernel's parameter
    // types, as on a GPU, and the addresses among them are of tensors that the caller of `Launch`
    // keeps.
    let status = unsafe {
        let emulate: libloading::Symbol<'_, Emulate> = library
            .get(b"assay_emulate")
            .map_err(candle_core::Error::wrap)?;
        let order = c_int::from(DESCENDING.get());
        emulate(
            name.as_ptr(),
            launch.grid.as_ptr(),
            launch.threads,
            args.as_mut_ptr(),
            order,
        )
    };
    match status {
        0 => Ok(()),
        1 => candle_core::bail!("there is no kernel {}", launch.kernel),
        _ => candle_core::bail!("{}: a barrier that not all threads reach", launch.kernel),
    }
}

#[allow(unsafe_code)]
pub(super) fn write(address: u64, input: StepInput<'_>) {
    // SAFETY: the caller has compared the tensor's size and type with the values', and nothing else
    // uses it meanwhile.
    unsafe {
        match input {
            StepInput::Ids(values) => {
                std::ptr::copy_nonoverlapping(values.as_ptr(), address as *mut u32, values.len());
            }
            StepInput::Numbers(values) => {
                std::ptr::copy_nonoverlapping(values.as_ptr(), address as *mut f64, values.len());
            }
        }
    }
}

pub(super) fn multiply(product: &Product) -> CandleResult<()> {
    let (a, b) = (
        read(product.a, [product.rows, product.depth])?,
        read(product.b, [product.depth, product.columns])?,
    );
    for row in 0..product.rows {
        let mut sums = vec![0f32; product.columns];
        for k in 0..product.depth {
            let left = a[row * product.depth + k];
            let right = &b[k * product.columns..(k + 1) * product.columns];
            sums.iter_mut()
                .zip(right)
                .for_each(|(sum, right)| *sum += left * right);
        }
        for (column, sum) in sums.iter().enumerate() {
            let at = row * product.columns + column;
            let before = match product.beta {
                0.0 => 0.0,
                beta => beta * load(product.c.address, product.c.dtype, at)?,
            };
            store(product.c, at, product.alpha * sum + before)?;
        }
    }
    Ok(())
}

/// The values of an operand as used in the product, row by row.
fn read(operand: Operand, [rows, columns]: [usize; 2]) -> CandleResult<Vec<f32>> {
    let values = (0..rows * columns).map(|i| {
        let (row, column) = (i / columns, i % columns);
        let at = match operand.transposed {
            true => column * operand.columns + row,
            false => row * operand.columns + column,
        };
        load(operand.address, operand.dtype, at)
    });
    values.collect()
}

#[allow(unsafe_code)]
fn load(address: u64, dtype: DType, at: usize) -> CandleResult<f32> {
    // SAFETY: operands are matrices of tensors that the caller keeps, and `at` is inside.
    unsafe {
        match dtype {
            DType::F32 => Ok(*(address as *const f32).add(at)),
            DType::BF16 => Ok((*(address as *const bf16).add(at)).to_f32()),
            other => candle_core::bail!("no matrix product of {other:?}"),
        }
    }
}

#[allow(unsafe_code)]
fn store(to: Target, at: usize, value: f32) -> CandleResult<()> {
    let Target { address, dtype } = to;
    // SAFETY: as in `load`; the result is memory that nothing else reads yet.
    unsafe {
        match dtype {
            DType::F32 => *(address as *mut f32).add(at) = value,
            DType::BF16 => *(address as *mut bf16).add(at) = bf16::from_f32(value),
            other => candle_core::bail!("no matrix product of {other:?}"),
        }
    }
    Ok(())
}
